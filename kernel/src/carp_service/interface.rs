//! One `carpN`: what the operator asked for, and the vhid that runs when everything needed is there.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use carp::{Config, Password, State, Vhid};
use net::{Ipv4Prefix, VirtualAddress, virtual_mac};

use super::lan::Parent;
use super::{CarpError, CarpStatus};
use crate::commands::syntax::ifconfig::{Change, WantedState};

/// The settings of a CARP interface.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub up: bool,
    pub vhid: Option<u8>,
    pub config: Config,
    pub addresses: Vec<Ipv4Prefix>,
    /// A state to be forced once the settings are in force.
    pub force: Option<WantedState>,
    /// Reasons to be demoted. One of weight 0 is to be taken back, and is forgotten at the next change.
    pub demotions: Vec<(String, u8)>,
}

impl Settings {
    pub fn new(preempt: bool) -> Self {
        let config = Config {
            preempt,
            ..Config::default()
        };
        Self {
            up: false,
            vhid: None,
            config,
            addresses: Vec::new(),
            force: None,
            demotions: Vec::new(),
        }
    }

    /// These settings with changes made. Nothing has changed if one is refused.
    pub fn changed(&self, changes: &[Change]) -> Result<Self, CarpError> {
        let mut settings = self.clone();
        settings.force = None;
        settings.demotions.retain(|(_, weight)| *weight > 0);
        for change in changes {
            match change {
                Change::Up => settings.up = true,
                Change::Down => settings.up = false,
                Change::Address(address, length) => {
                    let prefix = Ipv4Prefix::new(*address, *length)
                        .ok_or(CarpError::Network(net::ConfigError::BadAddress))?;
                    settings.addresses.retain(|old| old.address() != *address);
                    settings.addresses.push(prefix);
                    // As on the BSDs: giving an interface an address brings it up.
                    settings.up |= !changes.contains(&Change::Down);
                }
                Change::RemoveAddress(address) => {
                    let before = settings.addresses.len();
                    settings.addresses.retain(|old| old.address() != *address);
                    if settings.addresses.len() == before {
                        return Err(CarpError::NoSuchAddress(*address));
                    }
                }
                Change::Vhid(vhid) => settings.vhid = Some(*vhid),
                Change::Password(text) => settings.config.password = Password::new(text)?,
                Change::Advbase(advbase) => settings.config.timing.advbase = *advbase,
                Change::Advskew(advskew) => settings.config.timing.advskew = *advskew,
                Change::State(state) => settings.force = Some(*state),
                Change::Demote(name, weight) => {
                    settings.demotions.retain(|(known, _)| known != name);
                    settings.demotions.push((name.clone(), *weight));
                }
            }
        }
        settings.config.check()?;
        Ok(settings)
    }

    /// The parent: of the interfaces with an address in the subnet of a virtual address, the first;
    /// those that are up go before those that are down.
    pub fn find_parent<'a>(&self, parents: &'a [Parent]) -> Option<&'a Parent> {
        let backs = |parent: &&Parent| {
            self.addresses
                .iter()
                .any(|vip| source(parent, *vip).is_some())
        };
        parents
            .iter()
            .filter(backs)
            .max_by_key(|parent| (parent.up, core::cmp::Reverse(parent.index.0)))
    }
}

/// The parent's own address in the same subnet as a virtual address.
fn source(parent: &Parent, vip: Ipv4Prefix) -> Option<Ipv4Addr> {
    let same = |own: &&Ipv4Prefix| own.network() == vip.network() && own.address() != vip.address();
    parent.addresses.iter().find(same).map(Ipv4Prefix::address)
}

/// The vhid of an interface while it has one, and where it runs.
pub(super) struct Running {
    /// The interface's name, for the log.
    pub name: String,
    pub vhid: Vhid,
    pub parent: Parent,
    /// The virtual addresses that the network knows of.
    pub registered: Vec<VirtualAddress>,
}

impl Running {
    pub fn number(&self) -> u8 {
        self.vhid.number()
    }

    /// The virtual addresses the settings ask for on this parent.
    pub fn wanted(&self, settings: &Settings) -> Vec<VirtualAddress> {
        let active = settings
            .addresses
            .iter()
            .filter(|vip| source(&self.parent, **vip).is_some());
        active
            .map(|vip| VirtualAddress {
                interface: self.parent.index,
                address: *vip,
                vhid: self.number(),
                mac: virtual_mac(self.number()),
                master: self.vhid.state() == State::Master,
            })
            .collect()
    }

    /// The real address to advertise from.
    pub fn source(&self, settings: &Settings) -> Option<Ipv4Addr> {
        settings
            .addresses
            .iter()
            .find_map(|vip| source(&self.parent, *vip))
    }
}

/// A CARP interface.
pub(super) struct Interface {
    pub name: String,
    pub settings: Settings,
    pub running: Option<Running>,
}

impl Interface {
    pub fn status(&self) -> CarpStatus {
        let vhid = self.running.as_ref().map(|running| &running.vhid);
        let active = |address: &Ipv4Prefix| {
            vhid.is_some_and(|vhid| vhid.addresses().contains(&IpAddr::V4(address.address())))
        };
        let settings = &self.settings;
        CarpStatus {
            name: self.name.clone(),
            up: settings.up,
            vhid: settings.vhid,
            state: vhid.map_or(State::Init, Vhid::state),
            parent: self
                .running
                .as_ref()
                .map(|running| running.parent.name.clone()),
            source: vhid.and_then(Vhid::source),
            timing: settings.config.timing,
            effective_timing: vhid.map_or(settings.config.timing, Vhid::effective_timing),
            addresses: settings
                .addresses
                .iter()
                .map(|vip| (*vip, active(vip)))
                .collect(),
            master: vhid.and_then(Vhid::master),
            demotions: vhid.map_or_else(Vec::new, |vhid| {
                vhid.demotions()
                    .iter()
                    .map(|(name, weight)| (name.into(), weight))
                    .collect()
            }),
            counters: vhid.map(|vhid| vhid.counters().clone()).unwrap_or_default(),
        }
    }
}
