//! Models of the whole executor, in many random schedules, by shuttle.
//!
//! loom checks each structure alone, exhaustively. Here nodes of three CPUs run as they are: loop, inbox, rings with backlogs
//! (two slots each), wakes, moves, calls, tokens, heaps. Every atomic operation may be followed by another CPU's, and shuttle
//! picks which. By hand: `RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test -p executor --release
//! --test shuttle`. `ANAX_SCHEDULES` is how many schedules of each model are tried, and of each broken twin at most: the
//! same code with one [`Fault`] planted, which the model must catch. A failing schedule is printed, and replayed by
//! `shuttle::replay`.
//!
//! What shuttle does not see: memory orders (every operation is sequentially consistent; loom and ThreadSanitizer are for
//! those), and what happens between two atomic operations of one CPU, which is one step: so `PublishBeforeWrite` and the
//! faults of a thread's memory, which break it outright, are loom's.
#![cfg(shuttle)]

mod memory;
mod messages;
mod threads;

use executor::{
    Cpu, CpuId, Node, Platform,
    sync::{Fault, planted},
};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::{Condvar, Mutex},
    thread,
};
use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Tells a child process which of its model's faults to plant.
const PLANT: &str = "ANAX_PLANT_FAULT";
/// Schedules of each model, by each of two schedulers; seconds for all of them.
const SCHEDULES: usize = 2000;
/// How many moments of change the second scheduler places at random (Burckhardt et al., "A Randomized Scheduler with
/// Probabilistic Guarantees of Finding Bugs", 2010); it finds what needs few switches at the right moments.
const DEPTH: usize = 3;
/// A coroutine's, whose frames are those of the executor.
const STACK_BYTES: usize = 256 * 1024;
/// The first schedule's seed: fixed, so that a run repeats.
const SEED: u64 = 1;

/// Checks that `model` holds, and that it does not with each of `faults` planted.
///
/// What a fault breaks may be memory itself, so each broken twin runs in a child: this test, alone, with the fault planted.
fn check(faults: &[Fault], model: fn()) {
    let schedules = env::var("ANAX_SCHEDULES").map_or(SCHEDULES, |n| n.parse().expect("a number"));
    let planted = env::var(PLANT)
        .ok()
        .map(|index| index.parse::<usize>().expect("an index"));
    if let Some(index) = planted {
        planted::plant(faults[index]);
    }
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    let random = RandomScheduler::new_from_seed(SEED, schedules);
    Runner::new(random, config.clone()).run(model);
    let chosen = PctScheduler::new_from_seed(SEED, DEPTH, schedules);
    Runner::new(chosen, config).run(model);
    if planted.is_some() {
        return;
    }
    let this_test = std::thread::current()
        .name()
        .expect("a test's thread is named")
        .to_owned();
    for (index, fault) in faults.iter().enumerate() {
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", &this_test])
            .env(PLANT, index.to_string())
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("this program runs again");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            !child.status.success(),
            "the model did not notice {fault:?}"
        );
        assert!(
            said.contains("running 1 test"),
            "the child ran {this_test}: {said}"
        );
    }
}

/// A CPU that sleeps until its doorbell rings: `hlt` and an IPI. A ring before the sleep is not forgotten.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.bell.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.bell.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// A machine with doorbells, whose time passes when it is asked for, and without timers: all threads asleep is a deadlock,
/// which shuttle reports. So is a lost wake.
struct Machine {
    doorbells: Vec<Doorbell>,
    now_ns: AtomicU64,
}

impl Platform for Machine {
    fn clock_ns(&self) -> u64 {
        self.now_ns.fetch_add(1, Ordering::Relaxed)
    }

    fn doorbell(&self, target: CpuId) {
        self.doorbells[target.index()].ring();
    }

    fn idle(&self, cpu: &Cpu) {
        if cpu.may_sleep() {
            self.doorbells[cpu.id().index()].sleep();
        }
    }

    fn set_timer(&self, deadline_ns: Option<u64>) {
        assert_eq!(deadline_ns, None, "these models have no timers");
    }
}

/// Runs one future on a node of `cpus` CPUs, to its end and the node's.
fn run<F: Future<Output = ()> + 'static>(cpus: usize, build: impl FnOnce() -> F + Send + 'static) {
    let node = Node::new(
        cpus,
        Arc::new(Machine {
            doorbells: (0..cpus).map(|_| Doorbell::default()).collect(),
            now_ns: AtomicU64::new(1),
        }),
    );
    let threads: Vec<_> = (0..cpus as u16)
        .map(|id| {
            let node = node.clone();
            thread::spawn(move || {
                let cpu = node.cpu(CpuId(id));
                // SAFETY: this thread enters this CPU, and no other thread does.
                unsafe { cpu.enter() };
                cpu.run();
                cpu.leave();
            })
        })
        .collect();
    node.spawn_on(CpuId(0), "main", move || async move {
        build().await;
        executor::current().node().stop();
    })
    .detach();
    for thread in threads {
        thread.join().unwrap();
    }
}
