//! What a MASTER does: advertise, announce its addresses, and leave without a gap.
//!
//! Leaving is a stage of MASTER, not a state: after the first bow-out a peer needs a moment to
//! take over, and until then somebody has to answer. So the addresses stay until another master
//! is heard or the third bow-out was sent, whichever is first, and the last bow-out goes out in
//! the same breath as they are given up. It also makes the new master announce itself once more
//! (it hears a worse advertisement), which moves the virtual MAC in the switches for good.
//! The alternative, three bow-outs and out, costs the clients the time a peer takes to react.
//!
//! Source: OpenBSD carp_send_ad (delayed_arp) and ucarp's `carp.c`; the repeat is ours.

use core::net::{IpAddr, Ipv4Addr};

use super::{Phase, Vhid};
use crate::action::{Action, Actions, Reason, State};
use crate::timers::{Rank, Timing};
use crate::wire::Repr;

/// Bow-outs sent per departure: one may get lost.
pub(super) const BOW_OUTS: u8 = 3;
/// Time between two bow-outs while no other master is heard.
pub(super) const BOW_OUT_GAP_NS: u64 = 20_000_000;
/// Gratuitous ARP is repeated after this many further advertisements.
const ANNOUNCE_AFTER_ADVERTS: u8 = 2;
/// And this long after an announcement, each after the one before: frames that the last master had on their way teach
/// the switches its port once more, and with an advbase of a second nothing else would correct that for a second.
const ANNOUNCE_AGAIN_NS: [u64; 2] = [10_000_000, 90_000_000];

#[derive(Debug)]
pub(super) struct Master {
    since_ns: u64,
    advert_at_ns: u64,
    last_advert_ns: u64,
    last_announce_ns: u64,
    /// Advertisements until the gratuitous ARP is repeated; 0: no repeat is due.
    announce_countdown: u8,
    /// When the announcement is repeated next, and which of [`ANNOUNCE_AGAIN_NS`] that is.
    announce_again: Option<(u64, usize)>,
    last_answer_ns: Option<u64>,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    /// BACKUP, or INIT after a stop.
    to: State,
    bow_outs_sent: u8,
    next_ns: u64,
}

impl Master {
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    pub(super) fn next_deadline_ns(&self) -> u64 {
        let again_ns = self.announce_again.map_or(u64::MAX, |(at_ns, _)| at_ns);
        self.leaving
            .as_ref()
            .map_or(self.advert_at_ns.min(again_ns), |leaving| leaving.next_ns)
    }
}

impl Vhid {
    pub(super) fn become_master(&mut self, now_ns: u64, reason: Reason, actions: &mut Actions) {
        let master = Master {
            since_ns: now_ns,
            advert_at_ns: now_ns,
            last_advert_ns: now_ns,
            last_announce_ns: now_ns,
            announce_countdown: 0,
            announce_again: None,
            last_answer_ns: None,
            leaving: None,
        };
        self.enter(Phase::Master(master), reason, actions);
        self.counters.became_master += 1;
        self.advertise(now_ns, actions);
        self.announce(now_ns, actions);
    }

    pub(super) fn on_master_timer(&mut self, now_ns: u64, actions: &mut Actions) {
        let Phase::Master(master) = &mut self.phase else {
            return;
        };
        if now_ns < master.next_deadline_ns() {
            return;
        }
        if master.is_leaving() {
            self.bow_out_next(now_ns, actions);
            return;
        }
        if let Some((_, which)) = master.announce_again.filter(|(at_ns, _)| now_ns >= *at_ns) {
            master.announce_again = again(now_ns, which + 1);
            self.send_gratuitous_arp(now_ns, actions);
        }
        let Phase::Master(master) = &mut self.phase else {
            return;
        };
        if now_ns < master.advert_at_ns {
            return;
        }
        let is_due = match master.announce_countdown {
            0 => self
                .config
                .announce_refresh_ns
                .is_some_and(|refresh| now_ns.saturating_sub(master.last_announce_ns) >= refresh),
            countdown => {
                master.announce_countdown = countdown - 1;
                countdown == 1
            }
        };
        let was_frozen = self.count_time_jump(now_ns);
        self.advertise(now_ns, actions);
        if was_frozen {
            self.announce(now_ns, actions);
        } else if is_due {
            self.send_gratuitous_arp(now_ns, actions);
        }
    }

    /// Whether so much time passed since our last advertisement that our peers must have given
    /// us up: the machine was stopped. We do not step down on that alone (nobody else may be
    /// there), but hosts and switches have to learn anew where the addresses are.
    pub(super) fn count_time_jump(&mut self, now_ns: u64) -> bool {
        let Phase::Master(master) = &self.phase else {
            return false;
        };
        let silent_ns = now_ns.saturating_sub(master.last_advert_ns);
        let was_frozen = silent_ns > self.effective_timing().interval_ns() * 3;
        self.counters.time_jumps += u64::from(was_frozen);
        was_frozen
    }

    /// Another node advertises but we are better: it must see us, and all hosts must relearn.
    pub(super) fn reassert(&mut self, now_ns: u64, actions: &mut Actions) {
        let _ = self.count_time_jump(now_ns);
        self.announce(now_ns, actions);
        let interval_ns = self.effective_timing().interval_ns();
        let Phase::Master(master) = &mut self.phase else {
            return;
        };
        // Once per interval, so that a stream of replayed packets cannot make us send more.
        if master
            .last_answer_ns
            .is_none_or(|last| now_ns.saturating_sub(last) >= interval_ns)
        {
            master.last_answer_ns = Some(now_ns);
            self.advertise(now_ns, actions);
        }
    }

    /// Whether we are MASTER for long enough that the one before must have noticed.
    pub(super) fn is_settled_master(&self, now_ns: u64) -> bool {
        let settle_ns = self.effective_timing().interval_ns();
        matches!(&self.phase, Phase::Master(master)
            if now_ns.saturating_sub(master.since_ns) >= settle_ns)
    }

    /// What we advertise changed; tells it if we advertise at all.
    pub(super) fn readvertise(&mut self, now_ns: u64, actions: &mut Actions) {
        if self.state() == State::Master && !self.is_leaving() {
            self.advertise(now_ns, actions);
        }
    }

    /// Gratuitous ARP for addresses that were not in `before`.
    pub(super) fn announce_new(&mut self, before: &[IpAddr], actions: &mut Actions) {
        if self.state() != State::Master {
            return;
        }
        for address in &self.addresses {
            if let IpAddr::V4(v4) = address
                && !before.contains(address)
            {
                self.counters.announcements += 1;
                actions.push(Action::SendGratuitousArp(*v4));
            }
        }
    }

    /// Begins to leave for BACKUP or INIT; a no-op unless MASTER.
    pub(super) fn leave(&mut self, now_ns: u64, to: State, actions: &mut Actions) {
        let Phase::Master(master) = &mut self.phase else {
            return;
        };
        match &mut master.leaving {
            // A stop overrides a hand-over that is under way, not the reverse.
            Some(leaving) if to == State::Init => leaving.to = to,
            Some(_) => {}
            None => {
                master.leaving = Some(Leaving {
                    to,
                    bow_outs_sent: 0,
                    next_ns: now_ns,
                });
                self.bow_out_next(now_ns, actions);
            }
        }
    }

    /// The operator changed his mind while we were leaving.
    pub(super) fn stay(&mut self, now_ns: u64, actions: &mut Actions) {
        let Phase::Master(master) = &mut self.phase else {
            return;
        };
        if master.leaving.take().is_some() {
            self.advertise(now_ns, actions);
            self.announce(now_ns, actions);
        }
    }

    fn bow_out_next(&mut self, now_ns: u64, actions: &mut Actions) {
        let Phase::Master(Master {
            leaving: Some(leaving),
            ..
        }) = &mut self.phase
        else {
            return;
        };
        leaving.next_ns = now_ns.saturating_add(BOW_OUT_GAP_NS);
        if leaving.bow_outs_sent + 1 >= BOW_OUTS {
            self.finish_leaving(now_ns, None, actions);
            return;
        }
        leaving.bow_outs_sent += 1;
        self.send_advert(Timing::BOW_OUT, actions);
    }

    /// Sends the bow-outs that are left and gives the addresses up.
    pub(super) fn finish_leaving(
        &mut self,
        now_ns: u64,
        successor: Option<(Ipv4Addr, Rank)>,
        actions: &mut Actions,
    ) {
        let Phase::Master(Master {
            leaving: Some(leaving),
            ..
        }) = &self.phase
        else {
            return;
        };
        let (to, sent) = (leaving.to, leaving.bow_outs_sent);
        for _ in sent..BOW_OUTS {
            self.send_advert(Timing::BOW_OUT, actions);
        }
        if to == State::Init {
            self.enter(Phase::Init, Reason::Stopped, actions);
            return;
        }
        self.become_backup(now_ns, Reason::UserRequested, successor, actions);
        // Or preempt would bring us back at the successor's first advertisement.
        let hold_ns = self.config.timing.master_down_ns();
        self.preempt_not_before_ns = now_ns.saturating_add(hold_ns);
    }

    /// All bow-outs in one burst, for when the addresses cannot be kept.
    pub(super) fn bow_out_at_once(&mut self, actions: &mut Actions) {
        for _ in 0..BOW_OUTS {
            self.send_advert(Timing::BOW_OUT, actions);
        }
    }

    /// Sends a regular advertisement and arms the next.
    fn advertise(&mut self, now_ns: u64, actions: &mut Actions) {
        let timing = self.effective_timing();
        self.send_advert(timing, actions);
        if let Phase::Master(master) = &mut self.phase {
            master.last_advert_ns = now_ns;
            master.advert_at_ns = now_ns.saturating_add(timing.interval_ns());
        }
    }

    fn send_advert(&mut self, timing: Timing, actions: &mut Actions) {
        self.counters.sent += 1;
        self.counters.bow_outs_sent += u64::from(timing.is_bow_out());
        actions.push(Action::SendAdvert(self.advert(timing)));
    }

    /// After we have stepped down for a better master: it hears a worse one and announces itself, behind whatever we had
    /// on our way to the clients. (ucarp sends such an advertisement too, before it steps down.)
    pub(super) fn say_farewell(&mut self, actions: &mut Actions) {
        self.counters.sent += 1;
        actions.push(Action::SendFarewell(self.advert(self.effective_timing())));
    }

    fn advert(&self, timing: Timing) -> Repr {
        Repr {
            vhid: self.number(),
            timing,
            demotion: self.demotions.total(),
            cookie: self.cookie,
            digest: self.authenticator.digest(&self.cookie),
        }
    }

    /// Gratuitous ARP now, twice again soon, and again after the second advertisement from here (some
    /// switches and routers ignore the first).
    fn announce(&mut self, now_ns: u64, actions: &mut Actions) {
        self.send_gratuitous_arp(now_ns, actions);
        if let Phase::Master(master) = &mut self.phase {
            master.announce_countdown = ANNOUNCE_AFTER_ADVERTS;
            master.announce_again = again(now_ns, 0);
        }
    }

    fn send_gratuitous_arp(&mut self, now_ns: u64, actions: &mut Actions) {
        if let Phase::Master(master) = &mut self.phase {
            master.last_announce_ns = now_ns;
        }
        for address in &self.addresses {
            if let IpAddr::V4(address) = address {
                self.counters.announcements += 1;
                actions.push(Action::SendGratuitousArp(*address));
            }
        }
    }
}

fn again(now_ns: u64, which: usize) -> Option<(u64, usize)> {
    let pause_ns = ANNOUNCE_AGAIN_NS.get(which)?;
    Some((now_ns.saturating_add(*pause_ns), which))
}
