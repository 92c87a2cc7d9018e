//! One node of the world: a kernel, its machine, its memory, its clock, and its CPUs as the world drives them.
//!
//! [`Host`] is the place in the rack, which stays; [`Running`] is the kernel in it while it is switched on. A step of a
//! CPU happens at one moment: the clock stands still in it, and what it asks for (doorbells, timers, frames) is carried
//! out by the world afterwards.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use executor::{Broken, Cpu, CpuId, Node};
use kernel::platform::arena::Arena;
use kernel::platform::sim::{Ended, Parts, Simulated, SimulatedCable};

use crate::act::node_name;
use crate::clock::Clock;
use crate::random::Random;

/// The longest that a timer's interrupt is late.
const TIMER_TOLERANCE_NS: u64 = 50_000;
/// What a step usually takes.
const STEP_NS: (u64, u64) = (150, 1_500);
/// What one of many takes.
const LONG_STEP_NS: u64 = 40_000;
/// One of this many steps is long.
const LONG_STEP_EVERY: u64 = 128;
/// The longest way of a doorbell to a CPU that sleeps.
const DOORBELL_NS: u64 = 20_000;
/// Asleep, and nothing is set to wake it.
pub const NEVER: u64 = u64::MAX;

/// What a kernel's CPU 0 begins with.
pub type Program = Arc<dyn Fn(&Arc<Node>)>;

/// How a node is made.
#[derive(Clone)]
pub struct Settings {
    /// Its name, and its host name.
    pub name: String,
    /// CPUs, 1 to 64.
    pub cpus: usize,
    /// Start-up commands of the whole kernel.
    pub rc: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// What runs on it; None: the whole kernel.
    pub program: Option<Program>,
}

impl Settings {
    /// Node `number` (a, b, c) with the whole kernel on it, which begins with the commands `rc`.
    #[must_use]
    pub fn kernel(number: usize, cpus: usize, rc: String) -> Self {
        Self {
            name: node_name(number),
            cpus,
            rc,
            mac: [2, 0, 0, 0, 1, number as u8 + 1],
            program: None,
        }
    }
}

/// A CPU as the world sees it.
#[derive(Clone, Copy, Debug)]
struct CpuState {
    /// The node's time that its timer is set to.
    timer_ns: Option<u64>,
    /// The world's time at which the timer will interrupt.
    timer_due_ns: u64,
    /// When it fell asleep, as `Cpu::halt` has it.
    asleep: Option<u64>,
    rung: bool,
}

/// A kernel that is switched on.
pub struct Running {
    node: Arc<Node>,
    /// The machine below it.
    pub machine: Arc<Simulated>,
    /// Its end of the network cable.
    pub cable: Arc<SimulatedCable>,
    arena: Arena,
    cpus: Vec<CpuState>,
}

/// What a step came to.
pub enum Stepped {
    /// It goes on.
    On,
    /// The node has switched itself off or wants to start again.
    Ended(Ended),
    /// It panicked, and said this.
    Panicked(String),
    /// It holds what a CPU between two polls must not.
    Holds(Broken),
}

/// What a node leaves behind when it has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Allocated memory: objects and bytes.
    Memory(i64, i64),
    /// A panic of what was dropped, which said this.
    Panic(String),
}

/// A node's place in the world.
pub struct Host {
    /// How it is made.
    pub settings: Settings,
    /// Its clock; counts from boot.
    pub clock: Clock,
    /// The kernel, while it is switched on.
    pub running: Option<Running>,
    /// Stopped, as a process by SIGSTOP: nothing runs, the clock goes on.
    pub frozen: bool,
    /// What its console has shown since it was first switched on.
    pub screen: Vec<u8>,
    /// Classes to trace, if any.
    pub trace: Option<executor::trace::ClassMask>,
}

impl Host {
    /// A node that is switched off.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            clock: Clock::new(0, 0),
            running: None,
            frozen: false,
            screen: Vec::new(),
            trace: None,
        }
    }

    /// Switches it on; its CPUs begin at `now_ns`, on a clock that is off by `drift_ppm`. False: there is no memory left
    /// for it.
    ///
    /// # Panics
    /// If it is on already, or the kernel panics as it starts.
    pub fn boot(&mut self, now_ns: u64, drift_ppm: i64) -> bool {
        assert!(
            self.running.is_none(),
            "{} is switched on already",
            self.settings.name
        );
        let Settings {
            name,
            cpus,
            rc,
            mac,
            program,
        } = &self.settings;
        let Some(arena) = Arena::take(true) else {
            return false;
        };
        let cable = Arc::new(SimulatedCable::new(*mac));
        let machine = Simulated::new(Parts {
            command_line: format!("hostname={name} quiet"),
            rc: rc.clone().into_bytes(),
            cables: vec![cable.clone()],
            cpus: *cpus,
        });
        let node = Node::new(*cpus, machine.clone());
        assert!(
            node.set_zones(arena.zones()),
            "a new node has no memory yet"
        );
        self.clock = Clock::new(now_ns, drift_ppm);
        if let Some(mask) = self.trace {
            node.set_trace_mask(mask);
        }
        let cpu = node.cpu(CpuId(0));
        // SAFETY: this host thread alone runs this node, one CPU at a time.
        unsafe { cpu.enter() };
        match program {
            Some(program) => program(&node),
            None => kernel::start::start(machine.clone(), node.clone()),
        }
        cpu.leave();
        let state = CpuState {
            timer_ns: None,
            timer_due_ns: NEVER,
            asleep: None,
            rung: false,
        };
        let cpus = vec![state; *cpus];
        self.running = Some(Running {
            node,
            machine,
            cable,
            arena,
            cpus,
        });
        true
    }

    /// Switches it off at once: nothing on it runs any more, as in a power cut. What it leaves behind, if anything.
    pub fn kill(&mut self) -> Option<Left> {
        let running = self.running.take()?;
        self.frozen = false;
        self.screen.append(&mut running.machine.take_words().0);
        running.dismantle()
    }
}

impl Running {
    /// The node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The memory.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// One step of CPU `number` at `now_ns`; the clock was set. When it wants to be called again, and what came of it.
    pub fn step(
        &mut self,
        number: usize,
        now_ns: u64,
        clock: &Clock,
        random: &mut Random,
    ) -> (u64, Stepped) {
        self.machine.set_clock(clock.at(now_ns));
        let Self {
            node,
            machine,
            cpus,
            ..
        } = self;
        let (cpu, state) = (node.cpu(CpuId(number as u16)), &mut cpus[number]);
        // SAFETY: this host thread alone runs this node, and leaves before it enters another CPU.
        unsafe { cpu.enter() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            drive(cpu, machine, state, number, now_ns)
        }));
        let stepped = match outcome {
            Ok(()) => cpu.at_rest().map_or(Stepped::On, Stepped::Holds),
            Err(payload) => {
                // SAFETY: the step is over, and this is who makes them.
                unsafe { cpu.recover() };
                ended(payload)
            }
        };
        cpu.leave();
        self.note_timer(number, clock, random);
        let state = &self.cpus[number];
        let next_ns = match state.asleep {
            Some(_) => state.timer_due_ns,
            None if random.below(LONG_STEP_EVERY) == 0 => now_ns + 1 + random.below(LONG_STEP_NS),
            None => now_ns + STEP_NS.0 + random.below(STEP_NS.1 - STEP_NS.0),
        };
        (next_ns, stepped)
    }

    /// Takes in what the CPU's timer has been set to.
    fn note_timer(&mut self, number: usize, clock: &Clock, random: &mut Random) {
        let (wanted, state) = (self.machine.timer_ns(number), &mut self.cpus[number]);
        if wanted != state.timer_ns {
            state.timer_ns = wanted;
            state.timer_due_ns = wanted.map_or(NEVER, |deadline_ns| {
                clock
                    .when(deadline_ns)
                    .saturating_add(random.below(TIMER_TOLERANCE_NS))
            });
        }
    }

    /// The clock has changed: the timers are due at other moments of the world. When each CPU that sleeps wakes now.
    pub fn clock_changed(&mut self, clock: &Clock) -> Vec<Option<u64>> {
        let due = |state: &mut CpuState| {
            state.timer_due_ns = state
                .timer_ns
                .map_or(NEVER, |deadline_ns| clock.when(deadline_ns));
            (state.asleep.is_some() && !state.rung).then_some(state.timer_due_ns)
        };
        self.cpus.iter_mut().map(due).collect()
    }

    /// Rings a CPU that sleeps; when it will wake. None: it was awake.
    pub fn ring(&mut self, number: usize, now_ns: u64, random: &mut Random) -> Option<u64> {
        let state = &mut self.cpus[number];
        state.asleep?;
        state.rung = true;
        Some(now_ns + 1 + random.below(DOORBELL_NS))
    }

    /// If a CPU sleeps and nobody has rung it: what its timer is set to, on the node's clock.
    #[must_use]
    pub fn sleeps(&self, number: usize) -> Option<Option<u64>> {
        let state = &self.cpus[number];
        (state.asleep.is_some() && !state.rung).then(|| self.machine.timer_ns(number))
    }

    /// What a CPU that sleeps would sleep over for ever.
    #[must_use]
    pub fn left_behind(&self) -> Option<Broken> {
        let mut sleepers = self.node.cpus().zip(&self.cpus).enumerate();
        sleepers.find_map(|(number, (cpu, state))| {
            if state.asleep.is_none() || state.rung {
                return None;
            }
            // SAFETY: this host thread alone runs this node, and is between two steps.
            unsafe { cpu.left_behind(self.machine.timer_ns(number)) }
        })
    }

    /// Stops every CPU, has each drop its threads, and drops the node. What is left then.
    fn dismantle(self) -> Option<Left> {
        let Self {
            node,
            machine,
            cable,
            arena,
            ..
        } = self;
        let mut panicked = None;
        node.stop();
        for cpu in node.cpus() {
            // SAFETY: as in `step`.
            unsafe { cpu.enter() };
            // The messages on their way first; the step that finds the node stopped drops the threads.
            let outcome = catch_unwind(AssertUnwindSafe(|| while cpu.step() {}));
            // SAFETY: as in `step`.
            unsafe { cpu.recover() };
            cpu.leave();
            if let Err(payload) = outcome
                && let Stepped::Panicked(text) = ended(payload)
            {
                panicked.get_or_insert(Left::Panic(text));
            }
        }
        let machine_is_kept = Arc::downgrade(&machine);
        // The events of both hold the wakers of threads.
        drop((machine, cable));
        let node_is_kept = Arc::strong_count(&node) > 1;
        drop(node);
        let (objects, bytes) = arena.live();
        if node_is_kept || machine_is_kept.strong_count() > 0 {
            // Somebody still has it, so the memory stays taken for good.
            return panicked.or(Some(Left::Memory(objects.max(1), bytes)));
        }
        // SAFETY: the node is gone; what has leaked can be reached by nobody.
        unsafe { arena.release() };
        panicked.or((objects != 0).then_some(Left::Memory(objects, bytes)))
    }
}

/// A step, or the end of a sleep.
fn drive(cpu: &Cpu, machine: &Simulated, state: &mut CpuState, number: usize, now_ns: u64) {
    if now_ns >= state.timer_due_ns {
        state.timer_due_ns = NEVER;
        state.timer_ns = None;
        machine.timer_expired(number);
        // No poll is in progress, so there is no overrun to report.
        let _ = cpu.interrupt_timer();
    }
    if let Some(began_ns) = state.asleep.take() {
        if std::mem::take(&mut state.rung) {
            cpu.interrupt_doorbell();
        }
        cpu.wake(began_ns);
    } else if !cpu.step() {
        state.asleep = cpu.halt();
    }
}

fn ended(payload: Box<dyn Any + Send>) -> Stepped {
    match payload.downcast::<Ended>() {
        Ok(ended) => Stepped::Ended(*ended),
        Err(payload) => Stepped::Panicked(crate::crash::what_panicked(&*payload)),
    }
}
