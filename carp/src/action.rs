//! What the state machine asks its caller to do.
//!
//! Every input of a [`Vhid`](crate::Vhid) returns [`Actions`]: a list to be carried out *in
//! order*. The order is part of the protocol: a bow-out is listed before the state change that
//! takes the address away, and the state change to MASTER before the first advertisement, so that
//! the address answers by the time anybody is told to ask here. A list was chosen over a callback
//! trait since a simulator wants to look at, delay and drop actions.
//!
//! The wording of [`Reason`] is FreeBSD's, `sys/netinet/ip_carp.c`, where it has one.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Deref;

use crate::counters::DropReason;
use crate::split_brain::SplitBrain;
use crate::wire::Repr;

/// The state of a vhid, with the numbers of the BSDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not taking part: an interface, a link or an address is missing, or it was stopped.
    Init = 0,
    /// Silent: listens to the master.
    Backup = 1,
    /// Owns the virtual addresses and advertises.
    Master = 2,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "INIT",
            Self::Backup => "BACKUP",
            Self::Master => "MASTER",
        })
    }
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Everything needed is there.
    InitializationComplete,
    /// The master fell silent.
    MasterTimedOut,
    /// Preempt is on and we are faster.
    PreemptingSlowerMaster,
    /// The master is more demoted than we are.
    PreemptingDemotedMaster,
    /// The master bowed out, or advertises too rarely for our timer.
    MasterWillTimeOut,
    /// Another master is better.
    MoreFrequentAdvertisement,
    /// `ifconfig carp0 state master|backup`.
    UserRequested,
    /// The link went down.
    HardwareInterfaceDown,
    /// The interface was taken down.
    InterfaceDown,
    /// No virtual address, or no real address to send from, is left.
    NoAddress,
    /// An orderly stop: shutdown, removal.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InitializationComplete => "initialization complete",
            Self::MasterTimedOut => "master timed out",
            Self::PreemptingSlowerMaster => "preempting a slower master",
            Self::PreemptingDemotedMaster => "preempting a demoted master",
            Self::MasterWillTimeOut => "master will time out",
            Self::MoreFrequentAdvertisement => "more frequent advertisement received",
            Self::UserRequested => "user requested via ifconfig",
            Self::HardwareInterfaceDown => "hardware interface down",
            Self::InterfaceDown => "interface down",
            Self::NoAddress => "no address left",
            Self::Stopped => "orderly stop",
        })
    }
}

/// A transition; its `Display` is the log line after `carp0: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for StateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ({})", self.from, self.to, self.reason)
    }
}

/// A change of the demotion; its `Display` is the log line after `carp0: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemotionChange {
    /// The named reason that was set or cleared.
    pub name: String,
    /// By how much the total changed.
    pub by: i16,
    /// The total now, 0 to 255.
    pub total: u8,
}

impl fmt::Display for DemotionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "demoted by {} to {} ({})",
            self.by, self.total, self.name
        )
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send [`Repr::to_bytes`] from the virtual MAC and the real IPv4 address, TTL 255, and
    /// report the outcome to `on_send_ok` or `on_send_error`.
    SendAdvert(Repr),
    /// Send [`Repr::to_bytes`] as above, but from the *interface's own* MAC address: we are not MASTER any more. It
    /// follows the state change, so it leaves after every answer we gave as MASTER, and the master that hears it
    /// announces itself behind all of them. From the virtual MAC it would move that address to our port once more.
    SendFarewell(Repr),
    /// Broadcast an ARP request with this address as sender and target, from the virtual MAC.
    SendGratuitousArp(Ipv4Addr),
    /// Log it; take or give up the addresses on every CPU, before the actions that follow.
    StateChanged(StateChange),
    /// Log it.
    DemotionChanged(DemotionChange),
    /// Log it (already rate-limited).
    SplitBrain(SplitBrain),
}

/// What one input led to, to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[must_use = "actions not carried out leave the node in another state than its peers believe"]
pub struct Actions {
    list: Vec<Action>,
    dropped: Option<DropReason>,
}

impl Actions {
    pub(crate) fn push(&mut self, action: Action) {
        self.list.push(action);
    }

    pub(crate) fn set_dropped(&mut self, reason: DropReason) {
        self.dropped = Some(reason);
    }

    /// Why the advertisement that was the input was dropped (and counted), if it was.
    #[must_use]
    pub fn dropped(&self) -> Option<DropReason> {
        self.dropped
    }
}

impl Deref for Actions {
    type Target = [Action];

    fn deref(&self) -> &[Action] {
        &self.list
    }
}

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = alloc::vec::IntoIter<Action>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}
