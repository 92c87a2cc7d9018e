//! What the sanitizers must find, beside the same done well: a sanitizer that is silent may be blind.
//!
//! `ANAX_PLANT` plants a defect in one of these tests: "race", "use after free" or "leak". Without it all three are
//! sound, and pass everywhere.

use executor::{CpuId, Guarded, Token, hosted, run_on, spawn_on};
use std::{
    cell::UnsafeCell,
    env,
    hint::{self, black_box},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn planted(defect: &str) -> bool {
    env::var("ANAX_PLANT").is_ok_and(|planted| planted == defect)
}

/// What two CPUs must not touch at once.
struct Shared(UnsafeCell<u64>);

// SAFETY: none; that is the defect.
unsafe impl Sync for Shared {}

impl Shared {
    fn add(&self) {
        // SAFETY: see above.
        unsafe { *self.0.get() += 1 }
    }
}

#[test]
fn planted_race_two_cpus_count_without_a_token() {
    hosted::run(2, async || {
        if planted("race") {
            let shared = Arc::new((Shared(UnsafeCell::new(0)), AtomicBool::new(false)));
            let theirs = shared.clone();
            let other = spawn_on(CpuId(1), "counts", move || async move {
                theirs.1.store(true, Ordering::Relaxed);
                theirs.0.add();
            });
            // Orders nothing. Without it the message of who joins may come first, and order it all.
            while !shared.1.load(Ordering::Relaxed) {
                hint::spin_loop();
            }
            shared.0.add();
            other.await;
            return;
        }
        let token = Token::new("planted");
        let shared = Arc::new((Guarded::new(&token, 0), token));
        let theirs = shared.clone();
        let other = spawn_on(CpuId(1), "counts", move || async move {
            theirs
                .1
                .hold(async |held| held.with(&theirs.0, |count| *count += 1))
                .await;
        });
        shared
            .1
            .hold(async |held| held.with(&shared.0, |count| *count += 1))
            .await;
        other.await;
        let count = shared
            .1
            .hold(async |held| held.with(&shared.0, |count| *count))
            .await;
        assert_eq!(count, 2);
    });
}

#[test]
fn planted_use_after_free_a_message_outlives_what_it_points_at() {
    hosted::run(2, async || {
        let memory = Box::into_raw(Box::new(7u64));
        let address = memory.expose_provenance();
        if planted("use after free") {
            // SAFETY: just boxed.
            drop(unsafe { Box::from_raw(memory) });
        }
        let read = run_on(CpuId(1), move |_| {
            // SAFETY: not freed yet, unless that is what is planted.
            unsafe { black_box(core::ptr::with_exposed_provenance::<u64>(address)).read() }
        });
        assert_eq!(read.await, 7);
        // SAFETY: boxed above.
        drop(unsafe { Box::from_raw(memory) });
    });
}

#[test]
fn planted_leak_nobody_frees_a_reply() {
    hosted::run(2, async || {
        let reply = run_on(CpuId(1), |_| Box::new([7u64; 32])).await;
        if planted("leak") {
            mem::forget(black_box(reply));
        }
    });
}
