//! A call in flight: the future that waits for the reply.
//!
//! [`Call`] is what the caller holds. An inline answer is in it from the start. Any other is on its way (`reply.rs`), in
//! one allocation with, on the way to another CPU, the message itself, so that a call costs one cache line each way. The
//! inline paths are inlined always: a `Call` returned in memory is written in parts and read back as a whole, a stall
//! longer than all the rest of an inline answer.
//!
//! Where the two CPUs meet is the word of the reply; the way there and back is ordered by the rings:
//!
//! ```text
//!   caller                                 server's CPU
//!   message into the allocation
//!   with the replier's end into the ring   take it from the ring, and the message out of it
//!   poll: waker into the word              answer: reply stored; a waker was in the word?
//!   Pending                                to the caller's CPU: the thread, by IPI message
//!   message: schedule the thread
//!   poll: take the reply, free
//! ```

use crate::{
    Cpu, critical, current, ipi,
    reply::{Awaited, Owed, Stored},
    thread::ThreadRef,
};
use core::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    ptr,
    task::{Context, Poll, Waker},
};

/// A request in flight; a future of its reply.
#[must_use = "await it for the reply; dropping it asks the server to abort"]
pub struct Call<R> {
    state: State<R>,
}

enum State<R> {
    Ready(R),
    Waiting(Awaited<R>),
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
    pub(crate) fn waiting(awaited: Awaited<R>) -> Self {
        Self {
            state: State::Waiting(awaited),
        }
    }

    /// True if the reply is here: the next poll is ready.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Ready(_) | State::Taken => true,
            State::Waiting(awaited) => awaited.is_done(),
        }
    }

    /// Asks the server to abort, once; the answer is awaited as before, and is whatever the server makes of it (DragonFly:
    /// `lwkt_abortmsg`). A request and never a promise: too late, or a second time, it does nothing.
    ///
    /// The server is told on its own CPU, where it waits in [`Pending::aborted`](crate::Pending::aborted).
    pub fn abort(&self) {
        if let State::Waiting(awaited) = &self.state
            && awaited.abort()
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
        if let State::Waiting(awaited) = &mut self.state {
            critical::assert_may_wait();
            return awaited.poll(context.waker());
        }
        match mem::replace(&mut self.state, State::Taken) {
            State::Ready(reply) => Poll::Ready(reply),
            State::Waiting(_) | State::Taken => panic!("a call was polled after it had completed"),
        }
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if let State::Waiting(awaited) = &self.state
            && !awaited.is_done()
            && !awaited.is_aborted()
        {
            count_abort();
        }
    }
}

impl<R> Owed<R> {
    /// Stores the reply and wakes the caller. A caller on another CPU is woken by a message to that CPU: its thread is
    /// touched over there alone, which spares the thread's cache lines two journeys.
    ///
    /// # Errors
    /// The reply, when the caller has gone.
    #[inline]
    pub(crate) fn answer(self, here: Option<&Cpu>, reply: R) -> Result<(), R> {
        match self.store(reply) {
            Stored::Kept => Ok(()),
            Stored::Refused(reply) => Err(reply),
            Stored::Wake(waker, place) => {
                let place = place.cast::<Cpu>();
                match here {
                    Some(here) if !ptr::eq(here, place) => wake_at(here, place, waker),
                    _ => waker.wake(),
                }
                Ok(())
            }
        }
    }
}

/// Wakes who waits on another CPU than this, or on none.
fn wake_at(here: &Cpu, place: *const Cpu, waker: Waker) {
    if !here.node().has(place) {
        return waker.wake();
    }
    match ThreadRef::from_waker(waker) {
        // SAFETY: a CPU of this node.
        Ok(thread) => ipi::send_reply_wake(unsafe { &*place }, thread),
        Err(waker) => waker.wake(),
    }
}
