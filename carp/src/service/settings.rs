//! What the operator asked of a `carpN`: [`Change`] by change, kept as `Settings`.
//!
//! The parent interface is found, not named: it is the one with an address in the subnet of a virtual
//! address, as on DragonFly.
//!
//! Decision: a request is a list of changes and is taken whole or refused whole. Nodes whose lists of
//! addresses differ reject each other's advertisements, so no half-way list may ever be in force.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use net::Ipv4Prefix;

use super::CarpError;
use super::lan::Parent;
use crate::demotion::SEND_ERRORS;
use crate::{Config, Password};

/// One change to an interface. Those of CARP are for `carpN` alone; the others are what any interface has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `up`.
    Up,
    /// `down`.
    Down,
    /// An address and its prefix length.
    Address(Ipv4Addr, u8),
    /// `-alias ADDRESS`, `delete ADDRESS`.
    RemoveAddress(Ipv4Addr),
    /// CARP virtual host identifier, 1 to 255.
    Vhid(u8),
    /// CARP password.
    Password(String),
    /// CARP advertisement interval, in seconds.
    Advbase(u8),
    /// CARP advertisement skew, in 1/256 s, 0 to 254.
    Advskew(u8),
    /// `state master`, `state backup`.
    State(WantedState),
    /// `demote REASON WEIGHT`: a named reason why this vhid should rather not be master here; 0 takes it
    /// back.
    Demote(String, u8),
}

/// The CARP states that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedState {
    /// Take over now.
    Master,
    /// Hand over now.
    Backup,
}

/// The settings of a CARP interface.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub up: bool,
    pub vhid: Option<u8>,
    pub config: Config,
    pub addresses: Vec<Ipv4Prefix>,
    /// A state to be forced once the settings are in force.
    pub force: Option<WantedState>,
    /// This interface's reasons to be demoted, beside the node's. One of weight 0 is to be taken back, and is
    /// forgotten at the next change.
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
                Change::Demote(name, _) if name == SEND_ERRORS => return Err(CarpError::OwnReason),
                Change::Demote(name, weight) => {
                    settings.demotions.retain(|(known, _)| known != name);
                    settings.demotions.push((name.clone(), *weight));
                }
            }
        }
        settings.config.check()?;
        Ok(settings)
    }

    /// Whether a reason to be demoted is the interface's own.
    pub fn demotes_for(&self, reason: &str) -> bool {
        let mut own = self.demotions.iter();
        own.any(|(name, weight)| name == reason && *weight > 0)
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
pub(super) fn source(parent: &Parent, vip: Ipv4Prefix) -> Option<Ipv4Addr> {
    let same = |own: &&Ipv4Prefix| own.network() == vip.network() && own.address() != vip.address();
    parent.addresses.iter().find(same).map(Ipv4Prefix::address)
}
