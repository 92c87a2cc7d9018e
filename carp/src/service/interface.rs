//! One `carpN`: its settings, and the vhid that runs when everything needed is there.
//!
//! Decision: what the operator asked for and what runs are two values. The settings outlive a vhid that had
//! to leave, because its number changed or another interface is the parent now.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use net::{Ipv4Prefix, VirtualAddress, virtual_mac};

use super::CarpStatus;
use super::lan::Parent;
use super::settings::{Settings, source};
use crate::demotion::Demotions;
use crate::{State, Vhid};

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
    /// Its vhid can only start when one that is leaving has left.
    pub waits: bool,
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
            demotions: vhid.map_or_else(Vec::new, |vhid| list(vhid.demotions())),
            counters: vhid.map(|vhid| vhid.counters().clone()).unwrap_or_default(),
        }
    }
}

/// Reasons and weights as a report has them.
pub(super) fn list(demotions: &Demotions) -> Vec<(String, u8)> {
    demotions
        .iter()
        .map(|(name, weight)| (name.into(), weight))
        .collect()
}
