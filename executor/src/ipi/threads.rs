//! Messages about threads: wakes, join handles on other CPUs, and threads on their way to a new owner.
//!
//! A wake names its thread (DragonFly's `wakeup` names an address, and each CPU looks for sleepers on it), so there is no
//! table of sleepers, nothing to collide in it, and no mask of CPUs to read in time; see docs/decisions/wakes.md.

use super::{Message, Run, Urgency, send, send_later};
use crate::{
    Cpu, current,
    sync::{Fault, fault},
    thread::{Elsewhere, Header, ThreadRef, flag},
};
use alloc::{sync::Arc, task::Wake};
use core::{ptr, task::Waker};

/// The current CPU and the running thread in a message's second word, for the trace.
fn pack_waker() -> usize {
    let (cpu, thread) = current::try_current().map_or((0xff, 0), |here| {
        (usize::from(here.id().0 as u8), here.running_id() as usize)
    });
    cpu | thread << 8
}

/// What [`pack_waker`] has packed.
fn unpack_waker(b: usize) -> Option<(u8, u32)> {
    Some((b as u8, (b >> 8) as u32))
}

/// Wakes a thread that began to wait on `target` for what has just been stored: a reply. Nothing of the thread is
/// touched here, not even its mark, for there is one such message for each reply.
pub(crate) fn send_reply_wake(target: &Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, b: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else { return };
        if thread.owner.is(cpu) {
            cpu.schedule_for(&thread, unpack_waker(b));
        } else {
            // It has moved on.
            thread.wake();
        }
    }
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: pack_waker(),
        },
        Urgency::Active,
    );
}

/// Wakes a thread that belongs to another CPU. The reference travels with the message.
pub(crate) fn send_wake(target: *const Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, b: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else { return };
        let queue = || cpu.schedule_for(&thread, unpack_waker(b));
        if let Err(owner) = thread.owner.woken(cpu, &thread.mark, queue) {
            send_wake(owner, thread);
        }
    }
    // SAFETY: the owner of a thread that has not ended is alive: a node abandons its threads before it drops its CPUs,
    // and `Header::wake` goes no further once a thread has ended.
    let target = unsafe { &*target };
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: pack_waker(),
        },
        Urgency::Active,
    );
}

/// Leaves `joiner` with the owner of a thread, which wakes it when the thread ends, or at once if it has.
pub(crate) fn send_join(thread: ThreadRef, joiner: Arc<Elsewhere>) {
    /// # Safety
    /// `a` is a counted thread pointer, `b` a count of a joiner.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, b: usize) {
        // SAFETY: made below; run once.
        let (thread, joiner) = unsafe {
            (
                ThreadRef::from_raw(ptr::with_exposed_provenance(a)),
                Arc::from_raw(ptr::with_exposed_provenance::<Elsewhere>(b)),
            )
        };
        let Some(cpu) = cpu else { return };
        if thread.life.has_ended() && !fault(Fault::JoinWithoutLooking) {
            joiner.wake();
        } else if thread.owner.is(cpu) {
            // SAFETY: the owner, at a poll point or between two polls; the thread has not ended.
            unsafe { thread.life.wait(&Waker::from(joiner)) };
        } else {
            send_join(thread, joiner);
        }
    }
    send_to_owner(thread, run, Arc::into_raw(joiner).expose_provenance());
}

/// Gives the reference of a join handle up that was on another CPU than its thread.
pub(crate) fn send_detach(thread: ThreadRef) {
    /// # Safety
    /// `a` is the thread pointer of a join handle that went.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, _: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        if thread.life.has_ended() {
            // SAFETY: the handle's reference.
            unsafe { thread.leave() };
        } else if cpu.is_none_or(|cpu| thread.owner.is(cpu)) {
            // SAFETY: the owner as above, or in its place whoever drops a node, where no CPU runs any more.
            drop(unsafe { thread.life.detach() });
            thread.into_raw();
        } else {
            send_detach(thread);
        }
    }
    send_to_owner(thread, run, 0);
}

/// Sends the owner of a thread that had not ended a message about it. It is never run at once: an interrupt handler of the
/// owner may send it, between two instructions of the owner's own.
fn send_to_owner(thread: ThreadRef, run: Run, b: usize) {
    // SAFETY: as in `send_wake`; who asks has seen that the thread had not ended.
    let target = unsafe { &*thread.owner.get() };
    let header: *const Header = thread.into_raw();
    let message = Message {
        run,
        a: header.expose_provenance(),
        b,
    };
    send_later(target, message);
}

/// Hands a thread to its new owner. `owner` already names it.
pub(crate) fn send_arrival(target: &Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer, whose owner is `cpu`.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, _: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else {
            // SAFETY: it is in transit, so it has no owner but this message. What is dropped here may be dropped
            // anywhere: a closure that was sent, or a future that may move.
            unsafe { thread.abandon() };
            return;
        };
        // One that moves is in transit; any other is new, and is made here as far as the trace goes.
        if thread.is(flag::NEW) {
            cpu.record_spawn(&thread);
        }
        cpu.adopt(thread);
    }
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: 0,
        },
        Urgency::Active,
    );
}
