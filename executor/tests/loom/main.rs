//! Models of every lock-free structure, checked over all interleavings by loom.
//!
//! One file for each part of the executor. Run with `RUSTFLAGS="--cfg loom" cargo test -p executor --release --test loom`. Each structure has a model that must
//! hold and at least one broken twin: the same code with one [`Fault`] planted, which the model must catch. A model
//! that passes with its fault planted proves nothing, and fails this suite.
//!
//! What loom does not see: SeqCst fences (none are used here), and the real sizes (the ring has two slots here).
#![cfg(loom)]

mod ipi;
mod memory;
mod moves;
mod ports;
mod threads;
mod tokens;
mod trace;

use executor::{
    parts::{
        Awaited, CAPACITY, Countdown, Flags, Found, Inbox, Last, Life, Owed, Owner, Ring, Room,
        Stored, TokenWord, WakeMark, flag, pair,
    },
    slab::{FreeNode, RemoteList, ZONE_SIZE, ZoneMap},
    sync::{Fault, planted},
    trace::{Event, Record, Ring as TraceRing},
};
use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use std::{
    env,
    process::Command,
    task::{Poll, Wake, Waker},
};

/// Tells a child process which of its model's faults to plant.
const PLANT: &str = "ANAX_PLANT_FAULT";

/// Checks that `model` holds, and that it does not with each of `faults` planted.
///
/// A model that fails may abort its process (loom's own types panic again as they are dropped), so each broken twin
/// runs in a child: this test, alone, with the fault planted.
fn check(faults: &[Fault], model: impl Fn() + Sync + Send + 'static) {
    let planted = env::var(PLANT)
        .ok()
        .map(|index| index.parse::<usize>().expect("an index"));
    if let Some(index) = planted {
        planted::plant(faults[index]);
    }
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
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
        assert!(
            !child.status.success(),
            "the model did not notice {fault:?}"
        );
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            said.contains("running 1 test"),
            "the child ran {this_test}: {said}"
        );
    }
}

/// A CPU that sleeps until its doorbell rings: what `hlt` and an IPI are to the models.
#[derive(Default)]
struct Doorbell {
    rung: loom::sync::Mutex<bool>,
    bell: loom::sync::Condvar,
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

/// A waker that counts and rings.
#[derive(Default)]
struct Bell(Doorbell, AtomicUsize);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.ring();
    }
}
