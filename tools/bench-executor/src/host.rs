//! The host's calls that a bench needs: cores, clocks, the limit on locked memory.

use std::time::Duration;

use anyhow::Result;

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

/// Raises the limit on locked memory as far as it goes: io_uring's rings count against it.
pub fn raise_locked_memory() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the calls read or write the struct they are given. Without the right to raise the
    // hard limit the second try still lifts the soft one; failing at that, the peers say so.
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

/// How often the host has taken a core away from this program, to run another one on it.
pub fn times_interrupted() -> i64 {
    // SAFETY: all-zero is a rusage, and the call writes it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage.ru_nivcsw
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
