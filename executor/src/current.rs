//! Which CPU is this? The one machine-dependent accessor of the crate.
//!
//! On hardware the GS base of each CPU points at a block of the platform's, whose first word is this accessor's: null
//! until the CPU has entered its [`Cpu`]. On a host it is a thread-local. A thread of ours never changes CPU during a poll, so the
//! answer may be kept until the next await, and no longer.

use crate::Cpu;

#[cfg(target_os = "none")]
mod machine {
    use super::Cpu;
    use core::arch::asm;

    #[inline(always)]
    pub(super) fn get() -> *const Cpu {
        let cpu: *const Cpu;
        // SAFETY: the platform points the GS base at a readable word (null before there is a Cpu) before any code of
        // this crate runs on a CPU, and never changes what a poll sees.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) cpu, options(pure, readonly, nostack, preserves_flags));
        }
        cpu
    }

    pub(super) unsafe fn set(cpu: *const Cpu) {
        // SAFETY: the caller is this CPU; the word at its GS base is this accessor's own, and writable.
        unsafe {
            asm!("mov gs:[0], {}", in(reg) cpu, options(nostack, preserves_flags));
        }
    }
}

#[cfg(not(target_os = "none"))]
mod machine {
    extern crate std;
    use super::Cpu;
    use core::{cell::Cell, ptr};

    #[cfg(not(shuttle))]
    std::thread_local! {
        static CURRENT: Cell<*const Cpu> = const { Cell::new(ptr::null()) };
    }
    #[cfg(shuttle)]
    shuttle::thread_local! {
        static CURRENT: Cell<*const Cpu> = Cell::new(ptr::null());
    }

    #[inline(always)]
    pub(super) fn get() -> *const Cpu {
        CURRENT.with(Cell::get)
    }

    pub(super) unsafe fn set(cpu: *const Cpu) {
        CURRENT.with(|current| current.set(cpu));
    }
}

/// The current CPU's address; null outside of every CPU.
#[inline(always)]
pub(crate) fn pointer() -> *const Cpu {
    machine::get()
}

/// Makes `cpu` the current one, or none (null).
///
/// # Safety
/// One hardware CPU or host thread per `Cpu`, and the `Cpu` outlives its being current.
pub(crate) unsafe fn set(cpu: *const Cpu) {
    // SAFETY: the caller's promise.
    unsafe { machine::set(cpu) }
}

/// The current CPU, or None outside of every CPU (early boot, a host thread that is no CPU).
#[inline(always)]
pub fn try_current<'a>() -> Option<&'a Cpu> {
    // SAFETY: a current Cpu outlives the code that runs on it (see `set`).
    unsafe { pointer().as_ref() }
}

/// The current CPU. Do not keep the reference across an await: a movable thread may wake up on another CPU.
///
/// # Panics
/// Outside of every CPU.
#[inline(always)]
#[track_caller]
pub fn current<'a>() -> &'a Cpu {
    match try_current() {
        Some(cpu) => cpu,
        None => panic!("not on a CPU of a node: spawn or run_on one"),
    }
}
