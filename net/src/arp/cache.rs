//! The ARP cache of one CPU: a bounded table of neighbours and the packets that wait for them.
//!
//! An entry is *incomplete* (asked for, packets wait), *reachable* (confirmed within
//! [`config::ARP_REACHABLE_NS`]) or *stale* (older: used, but asked for again at its next use). When
//! the table is full the neighbour unused for longest goes; entries that packets wait in are
//! never evicted, so a scan of the network cannot push out a working neighbour by unanswered
//! requests alone: it gets [`DropReason::ArpTableFull`] instead. The search for a victim is
//! linear: it happens only when 1024 neighbours are known.

use alloc::alloc::Layout;
use alloc::collections::{BTreeMap, VecDeque};
use core::net::Ipv4Addr;

use executor::slab::{has_room, may_fail};

use crate::address::{InterfaceIndex, MacAddress};
use crate::config;
use crate::counters::DropReason;
use crate::packet::Packet;

/// Names a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArpKey {
    /// The interface it is on.
    pub interface: InterfaceIndex,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A packet that waits for a neighbour's MAC address. Whether it may still leave from `source_mac`
/// is decided when it is sent, not when it began to wait.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) packet: Packet,
    pub(crate) source_mac: MacAddress,
}

pub(crate) type Queue = VecDeque<Held>;

/// A set of CPUs; two CPUs 256 apart are told apart by nobody, which only costs a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuSet([u64; 4]);

impl CpuSet {
    fn insert(&mut self, cpu: u16) {
        self.0[usize::from(cpu) / 64 % 4] |= 1 << (cpu % 64);
    }

    pub(crate) fn contains(self, cpu: u16) -> bool {
        self.0[usize::from(cpu) / 64 % 4] & (1 << (cpu % 64)) != 0
    }
}

#[derive(Debug)]
enum State {
    Incomplete { held: Queue },
    Known { mac: MacAddress, confirmed_ns: u64 },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Requests since the last answer, and when the next one is due.
    tries: u8,
    next_try_ns: u64,
    last_used_ns: u64,
    /// CPUs that asked while this was unknown (CPU 0's cache only).
    asked_by: CpuSet,
}

/// The state of an entry, as `arp -a` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpState {
    /// Asked for, no answer yet.
    Incomplete,
    /// Confirmed lately; how long it counts as fresh still.
    Reachable {
        /// Nanoseconds left.
        remaining_ns: u64,
    },
    /// Confirmed long ago; asked for again when used.
    Stale,
}

/// What became of a packet given to [`ArpCache::resolve`].
#[derive(Default)]
pub(crate) struct Resolved {
    /// Send it to this address now. None: it waits, or an older one was dropped for it.
    pub(crate) send: Option<(MacAddress, Held)>,
    /// Ask for the neighbour.
    pub(crate) ask: bool,
    /// A packet (this or one that waited longest) was dropped.
    pub(crate) dropped: Option<DropReason>,
    pub(crate) evicted: Option<ArpKey>,
}

/// What an answer changed.
pub(crate) struct Learned {
    /// Packets that waited for it, oldest first.
    pub(crate) released: Queue,
    /// Another MAC address was known before.
    pub(crate) moved: bool,
    pub(crate) asked_by: CpuSet,
    pub(crate) evicted: Option<ArpKey>,
}

/// CPU 0's answer to another CPU's question.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) mac: Option<MacAddress>,
    /// Not known: send a request.
    pub(crate) request: bool,
    pub(crate) evicted: Option<ArpKey>,
}

/// One CPU's neighbours.
#[derive(Debug, Default)]
pub(crate) struct ArpCache {
    entries: BTreeMap<ArpKey, Entry>,
    /// How many entries are incomplete; the clock is looked at only if there are any.
    incomplete: usize,
}

impl ArpCache {
    /// Decides about a packet to `key`.
    pub(crate) fn resolve(&mut self, now_ns: u64, key: ArpKey, packet: Held) -> Resolved {
        let mut resolved = Resolved::default();
        if !self.entries.contains_key(&key) {
            match self.make_room() {
                Ok(evicted) => resolved.evicted = evicted,
                Err(reason) => {
                    resolved.dropped = Some(reason);
                    return resolved;
                }
            }
            self.insert_incomplete(now_ns, key);
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return resolved;
        };
        entry.last_used_ns = now_ns;
        match &mut entry.state {
            State::Known { confirmed_ns, mac } => {
                let mac = *mac;
                let is_stale = now_ns >= confirmed_ns.saturating_add(config::ARP_REACHABLE_NS);
                if !is_stale {
                    resolved.send = Some((mac, packet));
                    return resolved;
                }
                resolved.ask = entry.try_now(now_ns);
                if entry.tries > config::ARP_TRIES {
                    // It no longer answers: ask everybody from the start, and let packets wait.
                    entry.tries = 1;
                    let mut held = Queue::new();
                    resolved.dropped = hold(&mut held, packet);
                    entry.state = State::Incomplete { held };
                    self.incomplete += 1;
                } else {
                    resolved.send = Some((mac, packet));
                }
            }
            State::Incomplete { held } => {
                resolved.dropped = hold(held, packet);
                resolved.ask = entry.try_now(now_ns);
            }
        }
        resolved
    }

    /// CPU 0: another CPU wants to know `key`.
    pub(crate) fn ask(&mut self, now_ns: u64, key: ArpKey, from: u16) -> Answer {
        let mut answer = Answer::default();
        if !self.entries.contains_key(&key) {
            match self.make_room() {
                Ok(evicted) => answer.evicted = evicted,
                Err(_) => return answer,
            }
            self.insert_incomplete(now_ns, key);
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return answer;
        };
        entry.last_used_ns = now_ns;
        match entry.state {
            State::Known { mac, confirmed_ns }
                if now_ns < confirmed_ns.saturating_add(config::ARP_REACHABLE_NS) =>
            {
                answer.mac = Some(mac);
            }
            _ => {
                entry.asked_by.insert(from);
                answer.request = entry.try_now(now_ns);
            }
        }
        answer
    }

    /// A packet says that `key` is at `mac`. `None` if that is no news worth keeping: the neighbour
    /// is unknown and `create` is not set, or there is no room.
    pub(crate) fn learn(
        &mut self,
        now_ns: u64,
        key: ArpKey,
        mac: MacAddress,
        create: bool,
    ) -> Option<Learned> {
        let mut evicted = None;
        if !self.entries.contains_key(&key) {
            if !create {
                return None;
            }
            evicted = self.make_room().ok()?;
            self.insert_incomplete(now_ns, key);
        }
        let entry = self.entries.get_mut(&key)?;
        let known = State::Known {
            mac,
            confirmed_ns: now_ns,
        };
        let (released, moved) = match core::mem::replace(&mut entry.state, known) {
            State::Incomplete { held } => {
                self.incomplete -= 1;
                (held, false)
            }
            State::Known { mac: old, .. } => (Queue::new(), old != mac),
        };
        entry.tries = 0;
        entry.next_try_ns = 0;
        let asked_by = core::mem::take(&mut entry.asked_by);
        Some(Learned {
            released,
            moved,
            asked_by,
            evicted,
        })
    }

    /// The next entry whose time has come: ask for it again, or (with the packets that waited)
    /// it has been given up. Call until `None`.
    pub(crate) fn poll(&mut self, now_ns: u64) -> Option<(ArpKey, Option<Queue>)> {
        if self.incomplete == 0 {
            return None;
        }
        let due = |entry: &Entry| entry.is_incomplete() && entry.next_try_ns <= now_ns;
        let (&key, entry) = self.entries.iter_mut().find(|(_, entry)| due(entry))?;
        if entry.tries < config::ARP_TRIES {
            entry.try_now(now_ns);
            return Some((key, None));
        }
        Some((key, Some(self.forget(key))))
    }

    /// When [`ArpCache::poll`] next has something to do.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        if self.incomplete == 0 {
            return None;
        }
        let waiting = self.entries.values().filter(|entry| entry.is_incomplete());
        waiting.map(|entry| entry.next_try_ns).min()
    }

    /// Forgets a neighbour; returns the packets that waited for it.
    pub(crate) fn forget(&mut self, key: ArpKey) -> Queue {
        match self.entries.remove(&key).map(|entry| entry.state) {
            Some(State::Incomplete { held }) => {
                self.incomplete -= 1;
                held
            }
            _ => Queue::new(),
        }
    }

    /// All neighbours known or asked for, in the order of interface and address.
    pub(crate) fn iter(
        &self,
        now_ns: u64,
    ) -> impl Iterator<Item = (ArpKey, Option<MacAddress>, ArpState)> {
        self.entries
            .iter()
            .map(move |(&key, entry)| match entry.state {
                State::Incomplete { .. } => (key, None, ArpState::Incomplete),
                State::Known { mac, confirmed_ns } => {
                    let end_ns = confirmed_ns.saturating_add(config::ARP_REACHABLE_NS);
                    let state = match end_ns.checked_sub(now_ns) {
                        None | Some(0) => ArpState::Stale,
                        Some(remaining_ns) => ArpState::Reachable { remaining_ns },
                    };
                    (key, Some(mac), state)
                }
            })
    }

    fn insert_incomplete(&mut self, now_ns: u64, key: ArpKey) {
        self.incomplete += 1;
        let entry = Entry {
            state: State::Incomplete { held: Queue::new() },
            tries: 0,
            next_try_ns: 0,
            last_used_ns: now_ns,
            asked_by: CpuSet::default(),
        };
        self.entries.insert(key, entry);
    }

    /// Makes room for one entry; returns whom it cost.
    fn make_room(&mut self) -> Result<Option<ArpKey>, DropReason> {
        if self.entries.len() < config::ARP_ENTRIES {
            // The tree's nodes hold up to 11.
            return match has_room(Layout::new::<[(ArpKey, Entry); 11]>()) {
                true => Ok(None),
                false => Err(DropReason::ArpNoMemory),
            };
        }
        let known = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_incomplete());
        let oldest = known
            .min_by_key(|(_, entry)| entry.last_used_ns)
            .map(|(&key, _)| key);
        let victim = oldest.ok_or(DropReason::ArpTableFull)?;
        self.entries.remove(&victim);
        Ok(Some(victim))
    }
}

/// Has a packet wait. Why it, or the one that waited longest, was dropped.
fn hold(held: &mut Queue, packet: Held) -> Option<DropReason> {
    if may_fail(|| held.try_reserve(1)).is_err() {
        return Some(DropReason::ArpNoMemory);
    }
    held.push_back(packet);
    if held.len() > config::ARP_HELD_PACKETS {
        held.pop_front();
        return Some(DropReason::ArpQueueFull);
    }
    None
}

impl Entry {
    fn is_incomplete(&self) -> bool {
        matches!(self.state, State::Incomplete { .. })
    }

    /// Whether a request is due now; if so, it counts as sent.
    fn try_now(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_try_ns;
        if due {
            let doubled = config::ARP_FIRST_RETRY_NS << self.tries.min(16);
            self.tries = self.tries.saturating_add(1);
            self.next_try_ns = now_ns.saturating_add(doubled.min(config::ARP_RETRY_NS));
        }
        due
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
