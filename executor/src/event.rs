//! An event: how an interrupt handler, a timer or another CPU tells one thread that there is something to look at.
//!
//! Signals do not count: any number of them before a wait make that wait return once. The waiter then looks at
//! everything there is and waits again.
//!
//! ```text
//!   signaller                               waiter
//!   make news                               register the waker
//!   signalled := true        (swap)         signalled := false      (swap)
//!   it was false? wake the waker            it was true? look at the news; else Pending
//! ```
//!
//! If the signaller's swap comes first, the waiter's reads from it and sees the news. If it comes second, the waker was
//! registered before, and is woken. A signal that finds `signalled` true wakes nobody: the one before it did.

use crate::critical;
use core::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};
use futures_util::task::AtomicWaker;

/// A latch that one thread waits for and anybody signals, in any context.
#[derive(Debug, Default)]
pub struct Event {
    signalled: AtomicBool,
    waiter: AtomicWaker,
}

impl Event {
    /// Not signalled.
    pub const fn new() -> Self {
        Self {
            signalled: AtomicBool::new(false),
            waiter: AtomicWaker::new(),
        }
    }

    /// Signals the event and wakes its waiter. Allocates nothing.
    pub fn signal(&self) {
        // The swap orders what the signaller did before it against what the waiter reads after it.
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.waiter.wake();
        }
    }

    /// Waits until the event has been signalled since the last wait. One thread at a time may wait.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.take() {
                return Poll::Ready(());
            }
            critical::assert_may_wait();
            self.waiter.register(context.waker());
            if self.take() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Takes a signal if there is one.
    pub fn take(&self) -> bool {
        self.signalled.swap(false, Ordering::AcqRel)
    }
}
