//! What the service shows of itself: [`CarpReport`], for `ifconfig`, `carp` and `netstat -s`.
//!
//! Decision: a report is a copy, made by the thread between two inputs, so that what it says of several
//! vhids was true at one moment.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use net::Ipv4Prefix;

use crate::{Counters, State, Timing};

/// A CARP interface as `ifconfig` shows it.
#[derive(Clone, Debug)]
pub struct CarpStatus {
    /// `carp0`.
    pub name: String,
    /// Whether it was set up.
    pub up: bool,
    /// The virtual host id, once given.
    pub vhid: Option<u8>,
    /// The state; INIT while it does not take part.
    pub state: State,
    /// The interface behind it, once found.
    pub parent: Option<String>,
    /// The real address that advertisements come from.
    pub source: Option<Ipv4Addr>,
    /// The configured interval.
    pub timing: Timing,
    /// What is advertised: slower while demoted.
    pub effective_timing: Timing,
    /// The virtual addresses, and whether the parent's network holds them.
    pub addresses: Vec<(Ipv4Prefix, bool)>,
    /// While BACKUP: the master, if heard.
    pub master: Option<Ipv4Addr>,
    /// Reasons to be demoted, with their weights.
    pub demotions: Vec<(String, u8)>,
    /// What was counted.
    pub counters: Counters,
}

/// All of CARP as `netstat -s` shows it.
#[derive(Clone, Debug)]
pub struct CarpReport {
    /// The interfaces, by name.
    pub interfaces: Vec<CarpStatus>,
    /// The node's reasons to be demoted, with their weights; each vhid has them besides its own.
    pub demotions: Vec<(String, u8)>,
    /// Advertisements dropped before a vhid was known.
    pub strays: Counters,
    /// What was counted by vhids that are gone, or are leaving.
    pub departed: Counters,
}

impl CarpReport {
    /// Everything that was counted since boot, whether or not its vhid is still there.
    #[must_use]
    pub fn totals(&self) -> Counters {
        let mut sum = self.strays.clone();
        sum.add(&self.departed);
        for interface in &self.interfaces {
            sum.add(&interface.counters);
        }
        sum
    }
}
