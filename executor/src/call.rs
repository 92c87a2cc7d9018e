//! A call in flight: the future that waits for the reply, and the one allocation it shares with the server.
//!
//! [`Call`] is what the caller holds. An inline answer is in it from the start. Any other waits in a [`Flight`]: the
//! reply slot, the caller's CPU, and, on the way to another CPU, the message itself, so that a call costs one
//! allocation and one cache line each way. The inline paths are inlined always: a `Call` returned in memory is written
//! in parts and read back as a whole, a stall longer than all the rest of an inline answer.
//!
//! Where the two CPUs meet is the reply slot (`reply.rs`); the way there and back is ordered by the rings:
//!
//! ```text
//!   caller                                 server's CPU
//!   message into the flight
//!   message with the flight into the ring  take it from the ring, and the message out of the flight
//!   poll: waker into the slot              answer: reply into the slot; a waker was there?
//!   Pending                                to the caller's CPU: the thread, by IPI message
//!   message: schedule the thread           count of the flight -= 1
//!   poll: take the reply
//!   count of the flight -= 1
//! ```

use crate::{
    Cpu, critical, current, ipi,
    reply::{ReplySlot, Stored},
    thread::ThreadRef,
};
use alloc::sync::Arc;
use core::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    ptr,
    task::{Context, Poll},
};

/// A request in flight; a future of its reply.
#[must_use = "await it for the reply; dropping it asks the server to abort"]
pub struct Call<R> {
    state: State<R>,
}

enum State<R> {
    Ready(R),
    Waiting(Slot<R>),
    Taken,
}

impl<R> Unpin for Call<R> {}

impl<R> Call<R> {
    #[inline(always)]
    pub(crate) fn ready(reply: R) -> Self {
        Self {
            state: State::Ready(reply),
        }
    }

    #[inline(always)]
    pub(crate) fn waiting(slot: Slot<R>) -> Self {
        Self {
            state: State::Waiting(slot),
        }
    }

    /// True if the reply is here: the next poll is ready.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Ready(_) | State::Taken => true,
            State::Waiting(slot) => slot.reply.is_done(),
        }
    }

    /// Asks the server to abort, once; the answer is awaited as before, and is whatever the server makes of it (DragonFly:
    /// `lwkt_abortmsg`). A request and never a promise: too late, or a second time, it does nothing.
    ///
    /// The server is told on its own CPU, where it waits in [`Pending::aborted`](crate::Pending::aborted).
    pub fn abort(&self) {
        if let State::Waiting(slot) = &self.state
            && slot.reply.abort()
        {
            count_abort();
        }
    }
}

fn count_abort() {
    if let Some(here) = current::try_current() {
        here.stats.ports_aborted.add(1);
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("done", &self.is_done())
            .finish()
    }
}

impl<R> Future for Call<R> {
    type Output = R;
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<R> {
        if let State::Waiting(slot) = &self.state {
            critical::assert_may_wait();
            // SAFETY: this future is the slot's one caller.
            return unsafe { slot.reply.poll(context.waker()) };
        }
        match mem::replace(&mut self.state, State::Taken) {
            State::Ready(reply) => Poll::Ready(reply),
            State::Waiting(_) | State::Taken => panic!("a call was polled after it had completed"),
        }
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        let State::Waiting(slot) = &self.state else {
            return;
        };
        if slot.reply.is_done() {
            return;
        }
        if !slot.reply.is_aborted() {
            count_abort();
        }
        // SAFETY: this future is the slot's one caller, and polls no more.
        drop(unsafe { slot.reply.leave() });
    }
}

/// A call in flight, in one allocation: its reply slot, and what travels to another CPU.
pub(crate) struct Flight<R, C: ?Sized> {
    pub(crate) reply: ReplySlot<R>,
    /// The CPU that waits; null outside of every CPU of the server's node.
    caller: *const Cpu,
    pub(crate) cargo: C,
}

// SAFETY: the reply slot is Sync for such an R, the caller's CPU is only named, and the cargo is either () or a request
// that is Send (see `PortRef::call`) and is touched by the CPU that it was sent to, then by whoever drops it.
unsafe impl<R: Send, C: ?Sized> Sync for Flight<R, C> {}
// SAFETY: as above.
unsafe impl<R: Send, C: ?Sized> Send for Flight<R, C> {}

/// Any cargo, once it has arrived.
pub(crate) trait Cargo {}
impl<T> Cargo for T {}

/// A flight, as the two ends of a call hold it.
pub(crate) type Slot<R> = Arc<Flight<R, dyn Cargo>>;

impl<R, C> Flight<R, C> {
    /// `caller` is the current CPU if its node is the server's; else null (see `Home::caller`).
    pub(crate) fn new(caller: *const Cpu, cargo: C) -> Arc<Self> {
        Arc::new(Self {
            reply: ReplySlot::default(),
            caller,
            cargo,
        })
    }
}

impl<R> Flight<R, dyn Cargo> {
    /// Stores the reply and wakes the caller. A caller on another CPU is woken by a message to that CPU: its thread is
    /// touched over there alone, which spares the thread's cache lines two journeys.
    ///
    /// # Errors
    /// The reply, when the caller has gone.
    ///
    /// # Safety
    /// Called at most once per flight.
    pub(crate) unsafe fn answer(&self, here: Option<&Cpu>, reply: R) -> Result<(), R> {
        // SAFETY: the caller's promise.
        let waker = match unsafe { self.reply.store(reply) } {
            Stored::Kept => return Ok(()),
            Stored::Refused(reply) => return Err(reply),
            Stored::Wake(waker) => waker,
        };
        // SAFETY: a caller's CPU outlives the running of its node, as the owner of a thread does (see `ipi::send_wake`).
        let caller = unsafe { self.caller.as_ref() };
        match (here, caller) {
            (Some(here), Some(caller)) if !ptr::eq(here, caller) => {
                match ThreadRef::from_waker(waker) {
                    Ok(thread) => ipi::send_reply_wake(caller, thread),
                    Err(waker) => waker.wake(),
                }
            }
            _ => waker.wake(),
        }
        Ok(())
    }
}
