//! What the executor asks of a machine.
//!
//! A handful of calls, no more: everything above is the same on hardware, on a host and in a simulator.

use crate::{Cpu, CpuId};

/// A machine that Anax runs on. Implemented under kernel/src/platform and, for tests, by [`crate::hosted`].
pub trait Platform: Send + Sync {
    /// Monotonic nanoseconds since boot, the same on every CPU.
    fn clock_ns(&self) -> u64;

    /// A counter that runs evenly and is cheaper to read than the clock, if the machine has one: run times are counted in it.
    fn ticks(&self) -> u64 {
        self.clock_ns()
    }

    /// So many [`ticks`](Self::ticks), in nanoseconds.
    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        ticks
    }

    /// Makes a sleeping (or user-mode) CPU look at its inbox: a hardware IPI, a futex wake.
    fn doorbell(&self, target: CpuId);

    /// Sleeps on the current CPU until a doorbell, an interrupt or the timer. The inbox is already halted: sleep only
    /// while [`Cpu::may_sleep`] holds, checked where no interrupt can slip in between. May return early for no reason.
    fn idle(&self, cpu: &Cpu);

    /// Arms the current CPU's one-shot timer for `deadline_ns`, or disarms it. The timer ends an
    /// [`idle`](Self::idle), or calls [`Cpu::interrupt_timer`].
    fn set_timer(&self, deadline_ns: Option<u64>);

    /// How often an idle CPU looks at its inbox before it halts. Waking a halted CPU is dear; spinning where there are
    /// more CPUs than cores is dearer.
    fn idle_spin(&self) -> u32 {
        0
    }

    /// True if no interrupt reaches a busy CPU, so that its loop must look at the clock and, by
    /// [`poll_interrupts`](Self::poll_interrupts), at the devices itself now and then.
    fn interrupts_are_polled(&self) -> bool {
        false
    }

    /// Does what the interrupt handlers of devices with news would do. For a busy CPU's loop, every few dozen polls,
    /// where [`interrupts_are_polled`](Self::interrupts_are_polled).
    fn poll_interrupts(&self, cpu: &Cpu) {
        let _ = cpu;
    }

    /// True while a panic unwinds what the current CPU runs, and drops what it finds there. Never, where a panic is the end.
    fn is_unwinding(&self) -> bool {
        false
    }
}
