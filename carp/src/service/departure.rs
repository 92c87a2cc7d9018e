//! Vhids that are leaving, and requests that wait for them.
//!
//! A vhid that is destroyed, gets another number or another parent, or is stopped with the node bows out three
//! times over 40 ms and answers for its addresses meanwhile. It does so as a [`Departure`], driven by the same
//! timer loop as the vhids that stay.
//!
//! Decision: what would take a leaving vhid's number or one of its addresses on its parent waits until it has
//! left. The network knows an address once: a new owner would silence the old one in the middle of its bow-outs.

use executor::{Pending, now_ns};

use super::act::carry_out;
use super::interface::Running;
use super::lan::Lan;
use super::message::Request;
use crate::State;

/// Longest wait for a vhid to say its bow-outs.
const GOODBYE_NS: u64 = 200_000_000;

/// A vhid that is leaving.
pub(super) struct Departure {
    pub running: Running,
    until_ns: u64,
}

impl Departure {
    /// Has a vhid bow out. It may have left at once: ask [`Departure::is_over`].
    pub async fn begin<L: Lan>(lan: &L, mut running: Running) -> Self {
        let until_ns = now_ns().saturating_add(GOODBYE_NS);
        let actions = running.vhid.stop(now_ns());
        carry_out(lan, &mut running, actions).await;
        Self { running, until_ns }
    }

    /// Whether it has left, or had its time.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.running.vhid.state() == State::Init || now_ns >= self.until_ns
    }

    /// When to look at it again.
    pub fn next_deadline_ns(&self) -> u64 {
        let vhid_ns = self.running.vhid.next_deadline_ns().unwrap_or(u64::MAX);
        vhid_ns.min(self.until_ns)
    }

    /// Has the network forget the addresses.
    pub async fn end<L: Lan>(&self, lan: &L) {
        for address in &self.running.registered {
            lan.remove_virtual(*address).await;
        }
    }
}

/// A request that is answered when departures are over.
pub(super) struct Waiting(pub Pending<Request>);

impl Waiting {
    /// Whether it waits for this departure.
    pub fn is_for(&self, departure: &Departure) -> bool {
        match self.0.message() {
            Request::Stop => true,
            Request::Destroy { name } => departure.running.name == *name,
            // These look for themselves, when they are tried again.
            Request::Configure { .. } | Request::Demote { .. } | Request::SetPreempt(_) => false,
        }
    }
}
