//! The hosted platform: threads of a host as CPUs, for tests and benchmarks.
//!
//! A doorbell is `unpark` (a futex wake), idle is `park`, the timer is its time-out. No interrupt ever reaches a busy
//! CPU, so its loop looks at the clock itself. The kernel's own process platform, with a console and a network, is
//! another one.

extern crate std;

use crate::{Cpu, CpuId, Node, Platform, current, ticks::Ticks};
use alloc::sync::Arc;
use core::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use std::{
    boxed::Box,
    format,
    sync::OnceLock,
    thread::{self, JoinHandle, Thread},
    time::Instant,
    vec::Vec,
};

/// How a hosted node behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// CPUs, each a host thread.
    pub cpus: usize,
    /// Looks at the inbox before a CPU parks. More than a few thousand starve the others where cores are few.
    pub idle_spin: u32,
    /// Binds CPU n to host core n.
    pub pinned: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 1,
            idle_spin: 0,
            pinned: false,
        }
    }
}

struct Host {
    start: Instant,
    ticks: Ticks,
    idle_spin: u32,
    threads: Box<[OnceLock<Thread>]>,
    deadlines: Box<[AtomicU64]>,
}

impl Platform for Host {
    fn clock_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn ticks(&self) -> u64 {
        self.ticks.now()
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        self.ticks.to_ns(ticks)
    }

    fn is_unwinding(&self) -> bool {
        thread::panicking()
    }

    fn doorbell(&self, target: CpuId) {
        if let Some(thread) = self.threads[target.index()].get() {
            thread.unpark();
        }
    }

    fn idle(&self, cpu: &Cpu) {
        let deadline = self.deadlines[cpu.id().index()].load(Ordering::Relaxed);
        while cpu.may_sleep() {
            if deadline == u64::MAX {
                thread::park();
                continue;
            }
            let left = deadline.saturating_sub(self.clock_ns());
            if left == 0 {
                break;
            }
            thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn set_timer(&self, deadline_ns: Option<u64>) {
        let cpu = current::current().id();
        self.deadlines[cpu.index()].store(deadline_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn idle_spin(&self) -> u32 {
        self.idle_spin
    }

    fn interrupts_are_polled(&self) -> bool {
        true
    }
}

/// A running hosted node. Stops and joins its CPUs when dropped.
pub struct Hosted {
    node: Arc<Node>,
    cpus: Vec<JoinHandle<()>>,
}

impl Hosted {
    /// Starts a node.
    ///
    /// # Panics
    /// If the host refuses a thread.
    pub fn start(options: Options) -> Self {
        let host = Arc::new(Host {
            start: Instant::now(),
            ticks: Ticks::start(),
            idle_spin: options.idle_spin,
            threads: (0..options.cpus).map(|_| OnceLock::new()).collect(),
            deadlines: (0..options.cpus)
                .map(|_| AtomicU64::new(u64::MAX))
                .collect(),
        });
        let node = Node::new(options.cpus, host.clone());
        let cpus = (0..options.cpus)
            .map(|id| {
                let (node, host) = (node.clone(), host.clone());
                let body = move || {
                    host.threads[id].set(thread::current()).expect("set once");
                    if options.pinned {
                        pin(id);
                    }
                    let cpu = node.cpu(CpuId(id as u16));
                    // SAFETY: this thread enters this CPU, and no other thread does.
                    unsafe { cpu.enter() };
                    cpu.run();
                    cpu.leave();
                };
                thread::Builder::new()
                    .name(format!("cpu{id}"))
                    .spawn(body)
                    .expect("a host thread")
            })
            .collect();
        Self { node, cpus }
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Runs the future that `build` makes on CPU 0 and waits for its output.
    ///
    /// # Panics
    /// If a CPU's thread panicked.
    pub fn block_on<T, F>(&self, build: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (send, receive) = std::sync::mpsc::channel();
        self.node
            .spawn_on(CpuId(0), "main", move || async move {
                // The receiver waits below, unless a CPU has panicked.
                let _ = send.send(build().await);
            })
            .detach();
        loop {
            match receive.recv_timeout(Duration::from_millis(200)) {
                Ok(output) => return output,
                Err(_) => assert!(
                    !self.cpus.iter().any(JoinHandle::is_finished),
                    "a CPU's thread has panicked; its message is above"
                ),
            }
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.node.stop();
        for cpu in self.cpus.drain(..) {
            if cpu.join().is_err() && !thread::panicking() {
                panic!("a CPU's thread has panicked; its message is above");
            }
        }
    }
}

impl core::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Hosted({} CPUs)", self.cpus.len())
    }
}

/// Runs one future on a node of `cpus` CPUs and gives its output.
pub fn run<T, F>(cpus: usize, build: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    Hosted::start(Options {
        cpus,
        ..Options::default()
    })
    .block_on(build)
}

/// Binds the calling thread to a core, where the host allows it.
fn pin(core: usize) {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let mut mask = [0u64; 16];
    let core = core % cores;
    mask[core / 64] = 1 << (core % 64);
    unsafe extern "C" {
        fn sched_setaffinity(pid: i32, size: usize, mask: *const u64) -> i32;
    }
    // SAFETY: the call reads 128 bytes of mask and changes nothing but this thread's affinity; failure is harmless.
    unsafe { sched_setaffinity(0, size_of_val(&mask), mask.as_ptr()) };
}
