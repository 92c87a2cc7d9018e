//! The join handle: the one claim to a thread's output. See `life.rs` for the word that it shares with the thread.

use super::{Block, Header, Stage, Thread, ThreadRef};
use crate::critical;
use core::{
    future::Future,
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll},
};

/// Waits for a thread to end and gives its output. Dropping it lets the thread run on alone.
///
/// The handle is Send when the output is: the future itself stays with its CPU either way.
#[must_use = "await it for the output, or call detach() to say that nobody waits"]
pub struct JoinHandle<T> {
    thread: ManuallyDrop<ThreadRef>,
    take: unsafe fn(*const Header) -> T,
    /// A handle to an output that is not Send must stay where the output is.
    _not_send: core::marker::PhantomData<*const ()>,
}

// SAFETY: the output moves to the handle's CPU, which T: Send allows; the rest is atomic.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: a shared handle can do nothing but read the thread's name and id.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    pub(crate) fn new<F: Future<Output = T>>(thread: ThreadRef) -> Self {
        /// # Safety
        /// The thread is done, begins a `Block<F>`, and the caller is its one handle.
        unsafe fn take<F: Future>(header: *const Header) -> F::Output {
            // SAFETY: once it is done the stage belongs to the handle.
            let stage = unsafe { &mut *(*header.cast::<Block<F>>()).stage.get() };
            match core::mem::replace(stage, Stage::Empty) {
                Stage::Done(output) => output,
                Stage::Running(_) | Stage::Empty => {
                    panic!("a join handle was polled after it had given the output")
                }
            }
        }
        Self {
            thread: ManuallyDrop::new(thread),
            take: take::<F>,
            _not_send: core::marker::PhantomData,
        }
    }

    /// Lets the thread run on without waiting for it.
    pub fn detach(self) {}

    /// The thread's number, unique in its node.
    pub fn id(&self) -> u32 {
        self.thread.id
    }

    /// The thread itself, for those who want no output of it.
    pub fn thread(&self) -> Thread {
        Thread((*self.thread).clone())
    }

    /// True if the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.life.is_done()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if !self.is_finished() {
            critical::assert_may_wait();
        }
        // SAFETY: this is the thread's one handle.
        if !unsafe { self.thread.life.poll(context.waker()) } {
            return Poll::Pending;
        }
        // SAFETY: the thread is done, which was read with acquire, and `take` was made for this thread's future.
        Poll::Ready(unsafe { (self.take)(self.thread.0) })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if self.thread.life.detach() {
            // SAFETY: done, and this was the one handle: the stage is ours. An output that is not Send is dropped
            // where it was made, because then the handle could not leave.
            unsafe { (self.thread.vtable.clear)(self.thread.0) };
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.thread) };
    }
}
