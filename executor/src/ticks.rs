//! The processor's time-stamp counter, for a platform that is a process of a host.
//!
//! Reading the host's clock takes two to three times as long as reading the counter that it is computed from. The counter
//! needs no calibration in advance: what it has counted since the start and how long that took give its rate.

extern crate std;

use std::time::Instant;

/// The counter, and when it was first read.
#[derive(Debug)]
pub struct Ticks {
    started: Instant,
    first: u64,
    /// The counter runs evenly, whatever the processor does (the invariant TSC).
    even: bool,
}

impl Ticks {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            first: read(),
            even: is_even(),
        }
    }

    /// The counter, or nanoseconds since the start where there is none that will do.
    #[inline]
    pub fn now(&self) -> u64 {
        if self.even {
            read()
        } else {
            self.started.elapsed().as_nanos() as u64
        }
    }

    /// So many ticks in nanoseconds.
    pub fn to_ns(&self, ticks: u64) -> u64 {
        if !self.even {
            return ticks;
        }
        let passed_ns = self.started.elapsed().as_nanos();
        let passed = u128::from(read().saturating_sub(self.first).max(1));
        u64::try_from(u128::from(ticks) * passed_ns / passed).unwrap_or(u64::MAX)
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read() -> u64 {
    // SAFETY: every x86-64 processor has it, and no host forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn is_even() -> bool {
    // Advanced power management, EDX bit 8: invariant TSC (AMD64 Architecture Programmer's Manual, vol. 3, E.4.7).
    const POWER: u32 = 0x8000_0007;
    let largest = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    largest >= POWER && core::arch::x86_64::__cpuid(POWER).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> u64 {
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn is_even() -> bool {
    false
}
