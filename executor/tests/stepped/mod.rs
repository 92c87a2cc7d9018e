//! A node driven by steps on one host thread: CPUs halt, are rung, and wake exactly when the test says so.
#![allow(dead_code, reason = "each test program uses its part of it")]

use executor::{Broken, Cpu, CpuId, Node, Platform, current};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// The machine: a clock that stands until it is set, timers, and the doorbells that were rung.
pub struct Machine {
    clock_ns: AtomicU64,
    timers: Vec<AtomicU64>,
    rung: Mutex<Vec<CpuId>>,
}

impl Platform for Machine {
    fn clock_ns(&self) -> u64 {
        self.clock_ns.load(Ordering::Relaxed)
    }
    fn doorbell(&self, target: CpuId) {
        self.rung.lock().expect("no panic").push(target);
    }
    fn idle(&self, _: &Cpu) {}
    fn set_timer(&self, deadline_ns: Option<u64>) {
        let timer = &self.timers[current().id().index()];
        timer.store(deadline_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The node and what each CPU does: None while it is awake, else since when it sleeps.
pub struct Stepped {
    pub node: Arc<Node>,
    machine: Arc<Machine>,
    asleep: Vec<Option<u64>>,
}

impl Stepped {
    /// All of them asleep.
    pub fn new(cpus: usize) -> Self {
        let machine = Arc::new(Machine {
            clock_ns: AtomicU64::new(1),
            timers: (0..cpus).map(|_| AtomicU64::new(u64::MAX)).collect(),
            rung: Mutex::default(),
        });
        let node = Node::new(cpus, machine.clone());
        let mut stepped = Self {
            node,
            machine,
            asleep: vec![None; cpus],
        };
        stepped.settle();
        stepped
    }

    /// Runs `f` as a CPU, between two of its steps.
    pub fn on<R>(&self, cpu: u16, f: impl FnOnce(&Cpu) -> R) -> R {
        let cpu = self.node.cpu(CpuId(cpu));
        // SAFETY: this host thread alone enters the node's CPUs, and leaves one before the next.
        unsafe { cpu.enter() };
        let result = f(cpu);
        cpu.leave();
        result
    }

    /// Awake, so that it runs what comes only when it is stepped.
    pub fn wake(&mut self, cpu: u16) {
        if let Some(began_ns) = self.asleep[usize::from(cpu)].take() {
            self.on(cpu, |cpu| cpu.wake(began_ns));
        }
    }

    /// One step of a CPU that is awake, or its falling asleep. False: it sleeps.
    pub fn step(&mut self, cpu: u16) -> bool {
        if self.asleep[usize::from(cpu)].is_some() {
            return false;
        }
        let asleep = self.on(cpu, |cpu| if cpu.step() { None } else { cpu.halt() });
        assert_eq!(self.on(cpu, Cpu::at_rest), None);
        self.asleep[usize::from(cpu)] = asleep;
        true
    }

    /// Lets the doorbells that were rung arrive.
    pub fn ring(&mut self) -> bool {
        let rung = std::mem::take(&mut *self.machine.rung.lock().expect("no panic"));
        for cpu in &rung {
            self.wake(cpu.0);
        }
        !rung.is_empty()
    }

    /// Goes on until every CPU sleeps, and checks that none of them sleeps over anything.
    pub fn settle(&mut self) {
        loop {
            let mut some = self.ring();
            for cpu in 0..self.asleep.len() {
                some |= self.step(cpu as u16);
            }
            if !some {
                break;
            }
        }
        for cpu in 0..self.asleep.len() {
            assert_eq!(self.left_behind(cpu as u16), None);
        }
    }

    /// What a CPU sleeps over.
    pub fn left_behind(&self, cpu: u16) -> Option<Broken> {
        // SAFETY: this host thread alone drives the node, and is between two steps.
        unsafe { self.node.cpu(CpuId(cpu)).left_behind(self.timer_ns(cpu)) }
    }

    /// What a CPU's timer is set to.
    pub fn timer_ns(&self, cpu: u16) -> Option<u64> {
        let deadline_ns = self.machine.timers[usize::from(cpu)].load(Ordering::Relaxed);
        (deadline_ns != u64::MAX).then_some(deadline_ns)
    }

    /// Who was rung and has not heard it yet.
    pub fn rung(&self) -> Vec<u16> {
        let rung = self.machine.rung.lock().expect("no panic");
        rung.iter().map(|cpu| cpu.0).collect()
    }

    /// Sets the clock; timers that have run out interrupt, and wake who sleeps.
    pub fn advance_to(&mut self, now_ns: u64) {
        self.machine.clock_ns.store(now_ns, Ordering::Relaxed);
        for cpu in 0..self.asleep.len() as u16 {
            if self.timer_ns(cpu).is_some_and(|due_ns| due_ns <= now_ns) {
                self.machine.timers[usize::from(cpu)].store(u64::MAX, Ordering::Relaxed);
                self.on(cpu, |cpu| assert!(cpu.interrupt_timer().is_none()));
                self.wake(cpu);
            }
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // Threads go on their own CPUs.
        self.node.stop();
        for cpu in 0..self.asleep.len() as u16 {
            self.wake(cpu);
            self.on(cpu, |cpu| while cpu.step() {});
        }
    }
}
