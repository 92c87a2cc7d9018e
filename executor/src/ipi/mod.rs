//! IPI messages: a plain function and two words, run once on the target CPU.
//!
//! Messages of one (sender, target) pair are run in the order of sending and no other order holds (DragonFly
//! `lwkt_send_ipiq`). A send to oneself runs at once (trap 26). A send never waits: when the ring is full the message
//! waits in the sender's backlog, behind those that already do, and the sender goes on receiving (traps 27 and 28
//! cannot arise: no sender ever spins for room). The function runs in a hard section; being a plain `fn`, it cannot
//! await (trap 14).
//!
//! When a send returns, the function has not run, unless it was a send to oneself: what another CPU is asked for is done
//! later, and only [`synchronize`], [`Sent`] and the futures of [`run_on`] and its kin say that it is (trap 24).
//!
//! - here: messages, and how one is sent; `outbound.rs`: the sender's side of a pair
//! - `passive.rs`: messages without a doorbell, and the promise that a halted CPU gets them all the same
//! - `threads.rs`: wakes, and threads on their way
//! - `functions.rs`: what others use: functions on one CPU, on a mask, on all in a row, and waiting for what was sent

mod functions;
mod outbound;
mod passive;
mod threads;

pub use functions::{
    Sent, chain, run_on, run_on_all, run_on_mask, send_to_mask, sent_to, synchronize,
};
pub(crate) use functions::{answered, ask, send_shared};
pub(crate) use outbound::Outbound;
pub(crate) use passive::Reminders;
pub(crate) use threads::{send_arrival, send_detach, send_join, send_reply_wake, send_wake};

use crate::{
    Cpu, critical, current,
    inbox::{OUTSIDE, sender_bit},
    trace::{Class, Event},
};
use alloc::{boxed::Box, sync::Arc};
use core::{mem::ManuallyDrop, ptr};

/// What a message runs: its target and two words. Without a target (the node went before the message was run) it drops
/// what the words stand for.
pub(crate) type Run = unsafe fn(Option<&Cpu>, usize, usize);

/// One message. Having one tells you that `run` may be called with its words exactly once, on its target. One that is
/// dropped instead drops what it carries.
#[derive(Debug)]
pub(crate) struct Message {
    run: Run,
    a: usize,
    b: usize,
}

impl Message {
    /// A message that calls `f` on its target.
    pub(crate) fn boxed<F: FnOnce(&Cpu) + Send>(f: F) -> Self {
        /// # Safety
        /// `a` is the box made below.
        unsafe fn run<F: FnOnce(&Cpu)>(cpu: Option<&Cpu>, a: usize, _: usize) {
            // SAFETY: as above; run once.
            let f = unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<F>(a)) };
            if let Some(cpu) = cpu {
                f(cpu);
            }
        }
        Self {
            run: run::<F>,
            a: Box::into_raw(Box::new(f)).expose_provenance(),
            b: 0,
        }
    }

    /// A message that calls `f` on its target, one of many with the same `f`.
    fn shared<F: Fn(&Cpu) + Send + Sync>(f: Arc<F>) -> Self {
        /// # Safety
        /// `a` is a count of the function shared below.
        unsafe fn run<F: Fn(&Cpu)>(cpu: Option<&Cpu>, a: usize, _: usize) {
            // SAFETY: as above; run once.
            let f = unsafe { Arc::from_raw(ptr::with_exposed_provenance::<F>(a)) };
            if let Some(cpu) = cpu {
                f(cpu);
            }
        }
        Self {
            run: run::<F>,
            a: Arc::into_raw(f).expose_provenance(),
            b: 0,
        }
    }

    /// # Safety
    /// Called once, on the message's target.
    pub(crate) unsafe fn run(self, cpu: &Cpu) {
        let message = ManuallyDrop::new(self);
        // SAFETY: the caller's promise.
        unsafe { (message.run)(Some(cpu), message.a, message.b) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: never run, and not used again.
        unsafe { (self.run)(None, self.a, self.b) }
    }
}

/// Tells `target` that `here` has something for it, or (after a drain) room for it.
pub(crate) fn tell(here: &Cpu, target: &Cpu) -> bool {
    let ring = target.inbox.tell(sender_bit(here.id().index()));
    if ring {
        here.stats.doorbells_rung.add(1);
        here.node().platform().doorbell(target.id());
    }
    ring
}

/// Whether a message's target is told so that it looks at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// Rings the doorbell of a target that sleeps.
    Active,
    /// Rings nobody: see [`passive`].
    Passive,
}

/// Tells the target of a message that is in the ring. `sent_ns` was read before it went in (0 when nobody traces): the
/// target may have run it by now, and an effect must not come before its cause.
fn announce(here: &Cpu, target: &Cpu, sequence: usize, sent_ns: u64, urgency: Urgency) {
    here.stats.ipi_sent.add(1);
    let event = if urgency == Urgency::Passive {
        passive::announce(here, target);
        Event::IpiDoorbellSaved
    } else if tell(here, target) {
        Event::IpiSend
    } else {
        here.stats.doorbells_saved.add(1);
        Event::IpiDoorbellSaved
    };
    if sent_ns != 0 {
        let waker = here.running_id();
        here.record_at(sent_ns, event, target.id().0 as u8, waker, sequence as u32);
    }
}

fn send(target: &Cpu, message: Message, urgency: Urgency) {
    let Some(here) = current::try_current().filter(|here| same_node(here, target)) else {
        // Nobody here could answer for a passive message: it is sent as any other.
        target.outside.push(message);
        if target.inbox.tell(OUTSIDE) {
            target.node().platform().doorbell(target.id());
        }
        return;
    };
    if ptr::eq(here, target) {
        // The section ends last: what it has put off is done then, and not in the hard section.
        critical::section_on(here, || {
            here.hard.set(here.hard.get() + 1);
            // SAFETY: on its target, once.
            unsafe { message.run(here) };
            here.hard.set(here.hard.get() - 1);
        });
        return;
    }
    critical::section_on(here, || {
        let outbound = &here.outbound[target.id().index()];
        let message = if outbound.has_backlog() {
            message
        } else {
            let sent_ns = here.traced_ns(Class::Ipi);
            let ring = outbound.ring(here, target);
            // SAFETY: this CPU is the ring's one producer, and the critical section keeps its handlers out.
            match unsafe { ring.push(message) } {
                Ok(sequence) => {
                    // SAFETY: as above.
                    let urgency = unsafe { passive::urgency(ring, urgency) };
                    return announce(here, target, sequence, sent_ns, urgency);
                }
                Err(message) => message,
            }
        };
        // A full ring is too full for passive messages, so all that waits here is announced with a doorbell.
        outbound.keep(here, message);
    });
}

fn same_node(a: &Cpu, b: &Cpu) -> bool {
    ptr::eq(a.node(), b.node())
}

/// Runs `f` on `target`, soon, in a hard section: it must not run long. At once when `target` is the current CPU.
///
/// It cannot await, because it is a plain function (trap 14):
///
/// ```compile_fail
/// # fn f(target: &executor::Cpu) {
/// executor::send_to(target, |_| executor::yield_now().await); // no await inside
/// # }
/// ```
/// ```compile_fail
/// # fn f(target: &executor::Cpu) {
/// executor::send_to(target, async |_| executor::yield_now().await); // and nobody would poll a future
/// # }
/// ```
pub fn send_to(target: &Cpu, f: impl FnOnce(&Cpu) + Send + 'static) {
    send(target, Message::boxed(f), Urgency::Active);
}

/// As [`send_to`], but never at once: on the current CPU, too, `f` runs between two polls.
pub(crate) fn send_between_polls(target: &Cpu, f: impl FnOnce(&Cpu) + Send + 'static) {
    send_later(target, Message::boxed(f));
}

fn send_later(target: &Cpu, message: Message) {
    if ptr::eq(target, current::pointer()) {
        // The section keeps handlers out, which may push as well.
        critical::section_on(target, || target.outside.push(message));
        // It is awake.
        let _ = target.inbox.tell(OUTSIDE);
    } else {
        send(target, message, Urgency::Active);
    }
}

/// As [`send_to`], without waking a target that sleeps: for what only has to be done some time, such as giving back what
/// is the target's (DragonFly `lwkt_send_ipiq_passive`).
///
/// The target runs it when it looks next for any reason, 10 milliseconds after the send at the latest and not counting a
/// cpusync or a poll in the way. It keeps its place among the active messages of its pair. When as many as 64 wait in the
/// ring, and from outside of every CPU, it is an active send.
pub fn send_passive(target: &Cpu, f: impl FnOnce(&Cpu) + Send + 'static) {
    send(target, Message::boxed(f), Urgency::Passive);
}

/// As [`send_to`], with a function and a word instead of a closure in a box.
///
/// # Safety
/// `run` may be called once with `a`, on `target`, in a hard section, or with no CPU at all.
pub(crate) unsafe fn send_word(target: &Cpu, run: Run, a: usize) {
    send(target, Message { run, a, b: 0 }, Urgency::Active);
}
