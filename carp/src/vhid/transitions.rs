//! How a vhid enters and leaves its states, and what changes with its demotion.
//!
//! INIT has one rule, `Vhid::missing`: what is not there keeps or puts the vhid there, and every
//! input that may have changed an answer asks again. The alternative, a transition per input,
//! forgets one as soon as two things go down and one comes back.
//!
//! Source: FreeBSD carp_setrun, carp_master_down.

use core::net::Ipv4Addr;

use super::{Backup, Link, Phase, Vhid};
use crate::action::{Action, Actions, DemotionChange, Reason, State, StateChange};
use crate::timers::Rank;

/// A timer this late (or later than one interval, if that is longer) tells that we did not run.
const FROZEN_NS: u64 = 100_000_000;

impl Vhid {
    pub(super) fn missing(&self) -> Option<Reason> {
        if self.interface == Link::Down {
            Some(Reason::InterfaceDown)
        } else if self.link == Link::Down {
            Some(Reason::HardwareInterfaceDown)
        } else if self.addresses.is_empty() || self.source.is_none() {
            Some(Reason::NoAddress)
        } else {
            self.is_stopped.then_some(Reason::Stopped)
        }
    }

    /// Enters or leaves INIT, whichever the conditions ask for.
    pub(super) fn evaluate(&mut self, now_ns: u64, actions: &mut Actions) {
        match (self.missing(), self.state()) {
            (None, State::Init) => {
                self.preempt_not_before_ns = now_ns.saturating_add(self.config.preempt_delay_ns);
                self.become_backup(now_ns, Reason::InitializationComplete, None, actions);
            }
            (Some(Reason::Stopped), State::Master) if self.is_leaving() => {}
            (Some(reason), State::Backup | State::Master) => {
                self.enter(Phase::Init, reason, actions);
            }
            _ => {}
        }
    }

    pub(super) fn become_backup(
        &mut self,
        now_ns: u64,
        reason: Reason,
        master: Option<(Ipv4Addr, Rank)>,
        actions: &mut Actions,
    ) {
        let down_at_ns = self.down_at_ns(now_ns);
        let backup = Backup {
            down_at_ns,
            master,
            late_forgiven: false,
        };
        self.enter(Phase::Backup(backup), reason, actions);
    }

    pub(super) fn enter(&mut self, phase: Phase, reason: Reason, actions: &mut Actions) {
        let from = self.state();
        self.phase = phase;
        let to = self.state();
        actions.push(Action::StateChanged(StateChange { from, to, reason }));
    }

    /// The master-down timer of a BACKUP ran out.
    pub(super) fn on_master_down(&mut self, now_ns: u64, actions: &mut Actions) {
        let interval_ns = self.effective_timing().interval_ns();
        if let Phase::Backup(backup) = &mut self.phase {
            let late_ns = now_ns.saturating_sub(backup.down_at_ns);
            if late_ns > interval_ns.max(FROZEN_NS) && !backup.late_forgiven {
                // We were frozen, and the master's advertisements wait behind this timer.
                backup.late_forgiven = true;
                backup.down_at_ns = now_ns.saturating_add(interval_ns);
                self.counters.time_jumps += 1;
                return;
            }
        }
        self.become_master(now_ns, Reason::MasterTimedOut, actions);
    }

    /// By the configured timing: a demoted node waits no longer for a dead master.
    pub(super) fn down_at_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.config.timing.master_down_ns())
    }

    pub(super) fn demote(&mut self, now_ns: u64, name: &str, weight: u8, actions: &mut Actions) {
        let Some(by) = self.demotions.set(name, weight) else {
            return;
        };
        let total = self.demotions.total();
        actions.push(Action::DemotionChanged(DemotionChange {
            name: name.into(),
            by,
            total,
        }));
        // Said at once: this advertisement is what makes a better node take over.
        self.readvertise(now_ns, actions);
    }
}
