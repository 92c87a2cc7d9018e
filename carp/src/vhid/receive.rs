//! What an advertisement, or a foreign ARP packet, does to a vhid.
//!
//! The checks run in the order of the BSDs and nothing that fails one reaches the election.
//! Demotion is compared first, then speed; equal speed is decided by the lower real address,
//! because CARP's own rule (an equal master steps down) makes both of two equals step down.
//! A BACKUP that knows a better master leaves a second, worse one to it, and obeys a bow-out from
//! its own master only: we repeat bow-outs, and the second must not unseat the successor in a
//! third node's eyes.
//!
//! Source: carp.c of ucarp (tie-break); OpenBSD carp_proto_input_c (the rest).

use core::cmp::Ordering;
use core::net::{IpAddr, Ipv4Addr};

use super::{Phase, Vhid};
use crate::action::{Action, Actions, Reason, State};
use crate::counters::DropReason;
use crate::split_brain::SplitBrainCause;
use crate::timers::Rank;
use crate::wire::{Packet, Repr, TtlCheck, virtual_mac};

/// The longest wait for a master that is slower than our own timer.
const PATIENCE_MAX_NS: u64 = 10_000_000_000;

/// An IPv4 packet of protocol 112 as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its IPv4 source.
    pub source: Ipv4Addr,
    /// Its TTL.
    pub ttl: u8,
    /// What is behind the IPv4 header.
    pub payload: &'a [u8],
}

impl Vhid {
    /// All the checks, for where there is one vhid only; counts every drop here. With several,
    /// use [`Packet::receive`], look the vhid up, then [`Vhid::on_advert`].
    pub fn on_packet(&mut self, now_ns: u64, received: &Received<'_>) -> Actions {
        let checked = if self.state() == State::Init {
            Err(DropReason::Interface)
        } else {
            Packet::receive(received.payload, received.ttl, TtlCheck::Required)
        };
        match checked {
            Ok(packet) if packet.vhid() == self.number() => {
                self.on_advert(now_ns, received.source, &packet)
            }
            Ok(_) => self.dropped_unseen(DropReason::Vhid),
            Err(reason) => self.dropped_unseen(reason),
        }
    }

    /// An advertisement for this vhid whose TTL, length and checksum were found right.
    pub fn on_advert<T: AsRef<[u8]>>(
        &mut self,
        now_ns: u64,
        source: Ipv4Addr,
        packet: &Packet<T>,
    ) -> Actions {
        let mut actions = Actions::default();
        self.counters.received += 1;
        match self.verify(source, packet) {
            Ok(repr) => self.elect(now_ns, source, &repr, &mut actions),
            Err(reason) => {
                self.counters.count_drop(reason);
                actions.set_dropped(reason);
                let cause = match reason {
                    DropReason::Authentication => SplitBrainCause::Authentication,
                    DropReason::OwnAddress => SplitBrainCause::OwnAddress,
                    _ => return actions,
                };
                self.report(now_ns, cause, source, &mut actions);
            }
        }
        actions
    }

    /// An ARP packet came in from the wire with this sender. Reports a second owner of a
    /// virtual address; changes nothing.
    pub fn on_arp(&mut self, now_ns: u64, sender: Ipv4Addr, sender_mac: [u8; 6]) -> Actions {
        let mut actions = Actions::default();
        if self.is_settled_master(now_ns)
            && !self.is_leaving()
            && self.addresses().contains(&IpAddr::V4(sender))
        {
            let cause = if sender_mac == virtual_mac(self.number()) {
                SplitBrainCause::ArpFromVirtualMac { address: sender }
            } else {
                SplitBrainCause::ArpFromOtherMac {
                    address: sender,
                    mac: sender_mac,
                }
            };
            self.report(now_ns, cause, sender, &mut actions);
        }
        actions
    }

    fn dropped_unseen(&mut self, reason: DropReason) -> Actions {
        let mut actions = Actions::default();
        self.counters.received += 1;
        self.counters.count_drop(reason);
        actions.set_dropped(reason);
        actions
    }

    /// The checks from the version on.
    fn verify<T: AsRef<[u8]>>(
        &self,
        source: Ipv4Addr,
        packet: &Packet<T>,
    ) -> Result<Repr, DropReason> {
        if self.state() == State::Init {
            return Err(DropReason::Interface);
        }
        let repr = Repr::parse(packet)?;
        if !self.authenticator.verify(&repr.cookie, &repr.digest) {
            return Err(DropReason::Authentication);
        }
        if repr.cookie == self.cookie {
            return Err(DropReason::Loop);
        }
        if Some(source) == self.source {
            return Err(DropReason::OwnAddress);
        }
        Ok(repr)
    }

    fn elect(&mut self, now_ns: u64, source: Ipv4Addr, repr: &Repr, actions: &mut Actions) {
        match &self.phase {
            Phase::Init => {}
            Phase::Backup(backup) if self.is_matter_of(backup.master, source, repr) => {
                self.counters.adverts_left_to_master += 1;
            }
            Phase::Backup(_) => match self.takeover_reason(now_ns, repr) {
                Some(reason) => self.become_master(now_ns, reason, actions),
                None => self.follow(now_ns, source, repr),
            },
            Phase::Master(master) if master.is_leaving() => {
                if !repr.timing.is_bow_out() {
                    self.finish_leaving(now_ns, Some((source, Rank::of(repr))), actions);
                }
            }
            Phase::Master(_) if repr.timing.is_bow_out() => self.reassert(now_ns, actions),
            Phase::Master(_) => self.contend(now_ns, source, repr, actions),
        }
    }

    /// Whether this is for our master to settle: it comes from another node and is a bow-out, or
    /// from a second master that is worse than we are, while our master is better than we are.
    fn is_matter_of(
        &self,
        master: Option<(Ipv4Addr, Rank)>,
        source: Ipv4Addr,
        repr: &Repr,
    ) -> bool {
        master.is_some_and(|(address, rank)| {
            let is_worse_second = self.rank() < Rank::of(repr) && rank <= self.rank();
            address != source && (repr.timing.is_bow_out() || is_worse_second)
        })
    }

    /// Why a BACKUP should take over, given this advertisement; `None`: it should not.
    fn takeover_reason(&self, now_ns: u64, repr: &Repr) -> Option<Reason> {
        if repr.timing.is_bow_out() {
            return Some(Reason::MasterWillTimeOut);
        }
        if now_ns < self.preempt_not_before_ns {
            return None;
        }
        let (mine, theirs) = (self.rank(), Rank::of(repr));
        if theirs.demotion > mine.demotion {
            return Some(Reason::PreemptingDemotedMaster);
        }
        if self.config().preempt && mine < theirs {
            return Some(Reason::PreemptingSlowerMaster);
        }
        // At advbase 0 our timer is short by design: a slower peer's pace is not a sign of death.
        let timing = self.config().timing;
        let is_too_slow = timing.advbase != 0
            && timing.master_down_ns() < repr.timing.interval_ns()
            && theirs.demotion >= mine.demotion;
        is_too_slow.then_some(Reason::MasterWillTimeOut)
    }

    /// A BACKUP heard a master it leaves in place.
    fn follow(&mut self, now_ns: u64, source: Ipv4Addr, repr: &Repr) {
        let down_at_ns = now_ns.saturating_add(self.patience_ns(repr));
        if let Phase::Backup(backup) = &mut self.phase {
            backup.down_at_ns = down_at_ns;
            backup.master = Some((source, Rank::of(repr)));
            backup.late_forgiven = false;
        }
    }

    /// How long to wait for this master's next advertisement: our master-down time, unless it is
    /// so slow that we would time it out alive, again and again. At advbase 1 and more such a
    /// master is deposed at once; left in place it is only at advbase 0 (no preempt) and where it
    /// is less demoted than we are. There we wait three of *its* intervals.
    fn patience_ns(&self, repr: &Repr) -> u64 {
        let timing = self.config().timing;
        let interval_ns = repr.timing.interval_ns();
        let is_left_in_place = timing.advbase == 0 || repr.demotion < self.rank().demotion;
        if is_left_in_place && timing.master_down_ns() <= interval_ns + interval_ns / 2 {
            // Timing is not authenticated, so one forged packet must not silence us for long.
            return (3 * interval_ns).min(PATIENCE_MAX_NS.max(timing.master_down_ns()));
        }
        timing.master_down_ns()
    }

    /// Two masters: one has to go.
    fn contend(&mut self, now_ns: u64, source: Ipv4Addr, repr: &Repr, actions: &mut Actions) {
        let is_theirs_better = match Rank::of(repr).cmp(&self.rank()) {
            Ordering::Less => true,
            // The lower address stays. A BSD peer steps down in any case.
            Ordering::Equal => self.source.is_none_or(|own| source < own),
            Ordering::Greater => false,
        };
        if is_theirs_better {
            let reason = Reason::MoreFrequentAdvertisement;
            self.become_backup(now_ns, reason, Some((source, Rank::of(repr))), actions);
            self.say_farewell(actions);
            return;
        }
        if self.is_settled_master(now_ns) {
            self.report(now_ns, SplitBrainCause::SecondMaster, source, actions);
        }
        self.reassert(now_ns, actions);
    }

    fn report(
        &mut self,
        now_ns: u64,
        cause: SplitBrainCause,
        source: Ipv4Addr,
        actions: &mut Actions,
    ) {
        self.counters.split_brain += 1;
        if let Some(report) = self.reporter.report(now_ns, cause, source) {
            actions.push(Action::SplitBrain(report));
        }
    }
}

impl Rank {
    fn of(repr: &Repr) -> Self {
        Self {
            demotion: repr.demotion,
            timing_units: repr.timing.units(),
        }
    }
}
