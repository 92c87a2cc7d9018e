//! The join handle: the one claim to a thread's output, and who frees the thread once it has ended (see `life.rs`).
//!
//! On the thread's CPU it waits and goes by plain loads and stores. Anywhere else it asks the owner by message, once: what
//! it leaves there is a waker of its own, [`Elsewhere`], in which it changes whom to wake without asking again. So there
//! is one such message for each handle, and none can overtake another, however often and wherever the handle is polled.

use super::{Block, Header, Stage, Thread, ThreadRef};
use crate::{critical, ipi};
use alloc::{sync::Arc, task::Wake};
use core::{
    future::Future,
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use futures_util::task::AtomicWaker;

/// Waits for a thread to end and gives its output. Dropping it lets the thread run on alone.
///
/// The handle is Send when the output is: the future itself stays with its CPU either way.
#[must_use = "await it for the output, or call detach() to say that nobody waits"]
pub struct JoinHandle<T> {
    thread: ManuallyDrop<ThreadRef>,
    take: unsafe fn(*const Header) -> T,
    /// Once it was polled on another CPU than the thread's.
    elsewhere: Option<Arc<Elsewhere>>,
    /// A handle to an output that is not Send must stay where the output is.
    _not_send: core::marker::PhantomData<*const ()>,
}

/// Whom a handle wakes that waits on another CPU than the thread's.
#[derive(Default)]
pub(crate) struct Elsewhere(AtomicWaker);

impl Wake for Elsewhere {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
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
            elsewhere: None,
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
        let this = self.get_mut();
        let thread = &*this.thread;
        if !thread.life.is_done() {
            if this.elsewhere.is_none() && thread.is_at_home() {
                // SAFETY: it is.
                unsafe { thread.life.wait(context.waker()) };
                return Poll::Pending;
            }
            if !wait_elsewhere(thread, &mut this.elsewhere, context.waker()) {
                return Poll::Pending;
            }
        }
        // SAFETY: the thread is done, which was read with acquire, and `take` was made for this thread's future.
        Poll::Ready(unsafe { (this.take)(thread.0) })
    }
}

/// True: the thread is done. False: `waker` is woken when it is.
#[cold]
fn wait_elsewhere(
    thread: &ThreadRef,
    elsewhere: &mut Option<Arc<Elsewhere>>,
    waker: &Waker,
) -> bool {
    critical::assert_may_wait();
    if let Some(elsewhere) = elsewhere {
        elsewhere.0.register(waker);
    } else if !thread.life.has_ended() {
        let new = elsewhere.insert(Arc::default());
        new.0.register(waker);
        ipi::send_join(thread.clone(), new.clone());
    }
    // Behind the registration: who ends the thread does that first, and then wakes who is registered.
    thread.life.is_done()
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        // SAFETY: once, here, and this was the one handle.
        unsafe {
            let thread = ManuallyDrop::take(&mut self.thread);
            if thread.life.has_ended() {
                thread.leave();
            } else if thread.is_at_home() {
                drop(thread.life.detach());
                thread.into_raw();
            } else {
                ipi::send_detach(thread);
            }
        }
    }
}

impl ThreadRef {
    /// Gives the handle's reference up.
    ///
    /// # Safety
    /// It is the handle's, and the thread has ended. An output that is not Send is dropped where it was made, because then
    /// the handle could not leave.
    pub(crate) unsafe fn leave(self) {
        let header = self.into_raw();
        // SAFETY: the end was read with acquire, so the count is the handle's to settle, and the stage its to clear.
        unsafe {
            let life = &(*header).life;
            let last = life.is_alone() || {
                if life.is_done() {
                    ((*header).vtable.clear)(header);
                }
                life.settle(1)
            };
            if last {
                ((*header).vtable.free)(header);
            }
        }
    }
}
