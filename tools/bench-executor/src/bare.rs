//! The floors: what the hardware and the host's kernel cost with nothing on top; and the host calls
//! that the bench needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::rows::{Sample, Stopwatch};

/// Binds the calling thread to `core`.
///
/// # Errors
/// If the host refuses.
pub fn pin(core: usize) -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set, and the calls touch nothing else.
    let status = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    anyhow::ensure!(
        status == 0,
        "cannot bind a thread to core {core}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Raises the limit on locked memory as far as it goes: glommio's rings count against it.
pub fn raise_locked_memory() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the calls read or write the struct they are given. Without the right to raise the
    // hard limit the second try still lifts the soft one; failing at that, glommio says so itself.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) != 0 {
            let mut limit = unlimited;
            if libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
            }
        }
    }
}

/// The processor time of the calling thread.
pub fn processor_time() -> Duration {
    time(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The time that has passed since some moment.
pub fn wall_time() -> Duration {
    time(libc::CLOCK_MONOTONIC)
}

fn time(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the struct; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// One turn: a cache line goes to the other core and comes back.
pub fn cache_line(turns: u64) -> Result<Sample> {
    ping_pong(
        turns,
        |word, value| {
            while word.load(Ordering::Acquire) != value {}
        },
        |word, value| word.store(value, Ordering::Release),
    )
}

/// One turn: a futex wakes a sleeper on the other core, which wakes us.
pub fn futex(turns: u64) -> Result<Sample> {
    ping_pong(turns, futex_wait, |word, value| {
        word.store(value, Ordering::Release);
        // SAFETY: the word is alive; a wake touches no memory.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            )
        };
    })
}

fn futex_wait(word: &AtomicU32, value: u32) {
    loop {
        let now = word.load(Ordering::Acquire);
        if now == value {
            return;
        }
        // SAFETY: the word is alive; the host compares it and sleeps, or returns at once.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                now,
                std::ptr::null::<libc::timespec>(),
            )
        };
    }
}

/// A word on a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// Two threads on cores 0 and 1: each waits for its word, then sets the other's.
fn ping_pong(turns: u64, wait: fn(&AtomicU32, u32), set: fn(&AtomicU32, u32)) -> Result<Sample> {
    let lines = Arc::new([Line(AtomicU32::new(0)), Line(AtomicU32::new(0))]);
    let there = lines.clone();
    let turns = turns.min(u64::from(u32::MAX - 1)) as u32;
    let answerer = thread::spawn(move || -> Result<()> {
        let pinned = pin(1);
        for turn in 1..=turns + 1 {
            wait(&there[0].0, turn);
            set(&there[1].0, turn);
        }
        pinned
    });
    let asker = thread::spawn(move || -> Result<Sample> {
        let pinned = pin(0);
        let mut watch = Stopwatch::wall();
        for turn in 1..=turns + 1 {
            set(&lines[0].0, turn);
            wait(&lines[1].0, turn);
            if turn == 1 {
                watch = Stopwatch::wall();
            }
        }
        let sample = watch.stop(u64::from(turns));
        pinned.map(|()| sample)
    });
    let sample = asker.join().expect("it does not panic");
    answerer.join().expect("it does not panic")?;
    sample
}
