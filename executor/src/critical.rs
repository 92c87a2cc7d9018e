//! Critical sections: while one is open, this CPU's interrupt handlers wait.
//!
//! A section costs a counter, no `cli`. The raw interrupt entry sees the count, notes the line and returns; the end of
//! the outermost section runs what was noted. The count belongs to the thread (trap 11): an await inside a section
//! puts it away with the thread and brings it back with it, so it is not in force while another thread runs.
//!
//! Messages from other CPUs and timers wait for the poll point whether a section is open or not; see
//! docs/decisions/poll-points.md. Source: DragonFly `crit_enter`/`crit_exit`, `splz`.

use crate::{Cpu, current};
use core::sync::atomic::{Ordering, compiler_fence};

/// Runs `f` in a critical section of the current CPU. Sections nest.
///
/// # Panics
/// Outside of every CPU.
pub fn section<R>(f: impl FnOnce() -> R) -> R {
    section_on(current::current(), f)
}

/// As [`section`], of the current CPU, which is known: `f` cannot await, so it ends there.
#[inline]
pub(crate) fn section_on<R>(cpu: &Cpu, f: impl FnOnce() -> R) -> R {
    struct On<'c>(&'c Cpu);
    impl Drop for On<'_> {
        #[inline]
        fn drop(&mut self) {
            leave_on(self.0);
        }
    }
    enter_on(cpu);
    let _on = On(cpu);
    f()
}

/// Opens a section of the current CPU, for who calls [`leave_on`] before anybody can await.
#[inline]
pub(crate) fn enter_on(cpu: &Cpu) {
    cpu.critical.set(cpu.critical.get() + 1);
    compiler_fence(Ordering::SeqCst);
}

/// Ends the innermost section of the current CPU.
#[inline]
pub(crate) fn leave_on(cpu: &Cpu) {
    compiler_fence(Ordering::SeqCst);
    let depth = cpu.critical.get();
    debug_assert!(depth > 0, "a critical section ended twice");
    // A section that another thread ends by mistake must not count the depth below zero.
    cpu.critical.set(depth.saturating_sub(1));
    if depth == 1 && cpu.pending.load(Ordering::Relaxed) != 0 {
        cpu.replay_interrupts();
    }
}

/// Opens a section that ends when the guard is dropped. The guard may be held over an await: the section then sleeps
/// with the thread.
///
/// # Panics
/// Outside of every CPU.
#[must_use = "the section ends when this is dropped"]
pub fn enter() -> Section {
    enter_on(current::current());
    Section {
        _here: core::marker::PhantomData,
    }
}

/// An open critical section of the thread that made it.
#[derive(Debug)]
pub struct Section {
    /// The section belongs to a thread of one CPU, so it is not Send.
    _here: core::marker::PhantomData<*const ()>,
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        leave_on(current::current());
    }
}

/// True inside a critical section of the current CPU, and inside interrupt handlers and IPI functions.
pub fn is_open() -> bool {
    current::try_current().is_some_and(|cpu| cpu.critical.get() != 0)
}

/// Called where a thread is about to wait. What runs in a hard section is a plain function, so it can get here only by
/// polling a future itself; it would be the thread below that waits (trap 14).
///
/// # Panics
/// In a hard section.
#[inline]
#[track_caller]
pub(crate) fn assert_may_wait() {
    if let Some(here) = current::try_current() {
        assert_may_wait_on(here);
    }
}

/// As [`assert_may_wait`], for who knows its CPU.
#[inline]
#[track_caller]
pub(crate) fn assert_may_wait_on(here: &Cpu) {
    assert!(
        here.hard.get() == 0,
        "nothing can wait in an interrupt handler or an IPI function"
    );
}

/// True inside an interrupt handler or an IPI function: what runs there must be short and cannot await.
pub fn is_hard() -> bool {
    current::try_current().is_some_and(|cpu| cpu.hard.get() != 0)
}
