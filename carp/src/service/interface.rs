//! One carp interface: what the operator has set, and the virtual host it makes of it.
//!
//! A virtual host exists once the interface has a vhid. Its parent is found, not named: the interface that is up and
//! has an address in the subnet of a virtual address (carp(4)). Without one the addresses are listed and inactive.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use net::{InterfaceIndex, Ipv4Prefix};

use super::{CarpError, InterfaceStatus, Update};
use crate::{Actions, Config, Link, Password, State, Vhid};

/// The interface below, as far as CARP needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) index: InterfaceIndex,
    pub(super) name: String,
    /// The real address to send from.
    pub(super) source: Ipv4Addr,
    pub(super) link: Link,
}

pub(super) struct Interface {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) addresses: Vec<Ipv4Prefix>,
    pub(super) config: Config,
    pub(super) parent: Option<Parent>,
    pub(super) vhid: Option<Vhid>,
}

impl Interface {
    pub(super) fn new(name: String, preempt: bool) -> Self {
        let config = Config { preempt, ..Config::default() };
        Self { name, up: false, addresses: Vec::new(), config, parent: None, vhid: None }
    }

    pub(super) fn number(&self) -> Option<u8> {
        self.vhid.as_ref().map(Vhid::number)
    }

    pub(super) fn state(&self) -> State {
        self.vhid.as_ref().map_or(State::Init, Vhid::state)
    }

    /// Where and under which number frames leave, when there is something to leave from.
    pub(super) fn way_out(&self) -> Option<(InterfaceIndex, u8, Ipv4Addr)> {
        let parent = self.parent.as_ref()?;
        Some((parent.index, self.number()?, parent.source))
    }

    /// The settings after `update`, or why it cannot be. Changes nothing.
    pub(super) fn check(&self, update: &Update) -> Result<(Config, Vec<Ipv4Prefix>), CarpError> {
        let mut config = self.config.clone();
        if let Some(password) = &update.password {
            config.password = Password::new(password)?;
        }
        config.timing.advbase = update.advbase.unwrap_or(config.timing.advbase);
        config.timing.advskew = update.advskew.unwrap_or(config.timing.advskew);
        config.check()?;
        if update.vhid == Some(0) {
            return Err(crate::ConfigError::Vhid.into());
        }
        let has_vhid = self.vhid.is_some() || update.vhid.is_some();
        if !has_vhid && (!update.add.is_empty() || update.state.is_some()) {
            return Err(CarpError::NoVhid(self.name.clone()));
        }
        let mut addresses = self.addresses.clone();
        for gone in &update.remove {
            let before = addresses.len();
            addresses.retain(|prefix| prefix.address() != *gone);
            if addresses.len() == before {
                return Err(CarpError::NoAddress(*gone));
            }
        }
        for new in &update.add {
            addresses.retain(|prefix| prefix.address() != new.address());
            addresses.push(*new);
        }
        Ok((config, addresses))
    }

    /// The addresses as the state machine wants them.
    pub(super) fn hashed_addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|prefix| IpAddr::V4(prefix.address())).collect()
    }

    /// Tells the state machine what it stands on.
    pub(super) fn bind(&mut self, now_ns: u64) -> Vec<Actions> {
        let Some(vhid) = &mut self.vhid else { return Vec::new() };
        let source = self.parent.as_ref().map(|parent| parent.source);
        let link = self.parent.as_ref().map_or(Link::Down, |parent| parent.link);
        let mut actions = Vec::new();
        if vhid.source() != source {
            actions.push(vhid.set_source(now_ns, source));
        }
        actions.push(vhid.on_link(now_ns, link));
        // Whether the operator has it up is `start` and `stop`, which bow out; this is what lies below.
        let below = if self.parent.is_some() { Link::Up } else { Link::Down };
        actions.push(vhid.on_interface(now_ns, below));
        actions
    }

    pub(super) fn status(&self) -> InterfaceStatus {
        let vhid = self.vhid.as_ref();
        InterfaceStatus {
            name: self.name.clone(),
            up: self.up,
            vhid: self.number(),
            state: self.state(),
            timing: self.config.timing,
            addresses: self.addresses.clone(),
            parent: self.parent.as_ref().map(|parent| parent.name.clone()),
            source: self.parent.as_ref().map(|parent| parent.source),
            master: vhid.and_then(Vhid::master),
            demotions: vhid.map_or_else(Vec::new, |vhid| {
                vhid.demotions().iter().map(|(name, weight)| (name.into(), weight)).collect()
            }),
            counters: vhid.map_or_else(Default::default, |vhid| vhid.counters().clone()),
        }
    }
}
