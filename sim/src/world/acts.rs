//! What is done to the world from outside: power, clocks, cables, consoles.

use kernel::platform::sim::{Ended, Simulated};

use super::{Event, World};
use crate::act::Act;
use crate::clock::{Clock, DRIFT_PPM};
use crate::lan::Cable;
use crate::node::{Left, NEVER};
use crate::promise::{NO_MEMORY, NO_PANIC, Violation};

impl World {
    /// Does something to the world.
    ///
    /// # Errors
    /// A promise that this breaks.
    pub fn act(&mut self, act: &Act) -> Result<(), Violation> {
        self.tally.faults += u64::from(act.is_fault());
        self.story.push((self.now_ns, act.to_string()));
        match act {
            Act::Boot(node) => self.boot(*node)?,
            Act::Crash(node) => self.go_down(*node, None)?,
            Act::PowerButton(node) => {
                self.with_machine(*node, |machine| machine.press_power_button())?
            }
            Act::Type(node, line) => {
                self.with_machine(*node, |machine| {
                    machine.type_bytes(format!("{line}\r").as_bytes())
                })?;
            }
            Act::Freeze(node) => self.freeze(*node),
            Act::Thaw(node) => self.thaw(*node),
            Act::Drift(node, ppm) => {
                let now_ns = self.now_ns;
                self.change_clock(*node, |clock| clock.drift(now_ns, *ppm));
            }
            Act::Leap(node, by_ns) => self.change_clock(*node, |clock| clock.leap(*by_ns)),
            Act::Cable(node, cable) => self.lan.set_cable(self.ports[*node], *cable),
            Act::Heal => {
                for node in 0..self.hosts.len() {
                    self.lan.set_cable(self.ports[node], Cable::default());
                    self.thaw(node);
                    self.boot(node)?;
                }
            }
        }
        self.tell(|observer, world| observer.acted(act, world))
    }

    fn with_machine(&mut self, node: usize, act: impl FnOnce(&Simulated)) -> Result<(), Violation> {
        if let Some(running) = &self.hosts[node].running {
            act(&running.machine);
        }
        self.answer(node)
    }

    pub(super) fn boot(&mut self, node: usize) -> Result<(), Violation> {
        if self.hosts[node].running.is_some() {
            return Ok(());
        }
        let drift_ppm = self.random.below(2 * DRIFT_PPM as u64 + 1) as i64 - DRIFT_PPM;
        if !self.hosts[node].boot(self.now_ns, drift_ppm) {
            let seen = "too many nodes of runs that failed were never let go";
            return Err(Violation::new(NO_MEMORY, seen));
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.booted(node);
        }
        let first = self.first[node];
        for cpu in 0..self.hosts[node].settings.cpus {
            // CPU 0 is the first to run; the others come up soon after.
            self.next_ns[first + cpu] = self.now_ns
                + 1
                + if cpu == 0 {
                    0
                } else {
                    self.random.below(100_000)
                };
        }
        self.tell(|observer, world| observer.powered(node, true, world))?;
        self.answer(node)
    }

    pub(super) fn go_down(&mut self, node: usize, how: Option<Ended>) -> Result<(), Violation> {
        let first = self.first[node];
        let cpus = self.hosts[node].settings.cpus;
        self.next_ns[first..first + cpus].fill(NEVER);
        if self.hosts[node].running.is_none() {
            return Ok(());
        }
        if how.is_some() {
            // Its last words went out before.
            self.answer(node)?;
        }
        let left = self.hosts[node].kill();
        self.lan.unplug(self.ports[node]);
        if let Some(how) = how {
            let what = if how == Ended::Reboot {
                "starts again"
            } else {
                "is off"
            };
            self.story
                .push((self.now_ns, format!("{} {what}", self.name(node))));
        }
        self.tell(|observer, world| observer.powered(node, false, world))?;
        if how == Some(Ended::Reboot) {
            self.schedule(self.now_ns + 1_000_000, Event::Boot(node));
        }
        match left {
            None => Ok(()),
            Some(Left::Panic(text)) => Err(Violation::new(
                NO_PANIC,
                format!("{}: {text}", self.name(node)),
            )),
            Some(Left::Memory(objects, bytes)) => Err(Violation::new(
                "memory is balanced when a node has gone",
                format!(
                    "{}: {objects} objects, {bytes} bytes are left",
                    self.name(node)
                ),
            )),
        }
    }

    fn freeze(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        host.frozen = host.running.is_some();
        if host.frozen {
            let first = self.first[node];
            self.next_ns[first..first + host.settings.cpus].fill(NEVER);
        }
    }

    fn thaw(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if !std::mem::take(&mut host.frozen) {
            return;
        }
        let first = self.first[node];
        for cpu in 0..host.settings.cpus {
            // Each looks at once at what there is; waking for nothing is allowed.
            self.next_ns[first + cpu] = self.now_ns + 1 + self.random.below(20_000);
        }
    }

    fn change_clock(&mut self, node: usize, change: impl FnOnce(&mut Clock)) {
        let host = &mut self.hosts[node];
        change(&mut host.clock);
        let Some(running) = &mut host.running else {
            return;
        };
        for (cpu, due_ns) in running.clock_changed(&host.clock).into_iter().enumerate() {
            if let Some(due_ns) = due_ns.filter(|_| !host.frozen) {
                self.next_ns[self.first[node] + cpu] = due_ns.max(self.now_ns + 1);
            }
        }
    }
}
