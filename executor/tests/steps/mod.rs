//! What tests of tokens on several CPUs share: steps that they wait for in one poll, or from poll to poll.

use executor::{CpuId, JoinHandle, Token, spawn_on, timeout, yield_now};
use std::{
    future::{Future, poll_fn},
    hint::spin_loop,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

/// Longer than anything here takes, on however busy a machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A step that threads of several CPUs wait for, one by one, without ending their polls.
#[derive(Clone, Default)]
pub struct Step(Arc<AtomicBool>);

impl Step {
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Keeps this CPU until the step is done. False: it is not, in `limit`.
    pub fn is_done_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.is_done() && Instant::now() < until {
            spin_loop();
        }
        self.is_done()
    }

    pub async fn wait(&self) {
        timeout(LIMIT, async {
            while !self.is_done() {
                yield_now().await;
            }
        })
        .await
        .expect("the other CPU's step");
    }
}

/// Polls once.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// Holds `token` on CPU 1 in one long poll, until `end`.
pub async fn hold_on_1(token: &Token, end: &Step) -> JoinHandle<()> {
    let (theirs, end, begun) = (token.clone(), end.clone(), Step::default());
    let told = begun.clone();
    let holder = spawn_on(CpuId(1), "holder", move || async move {
        theirs
            .hold(async |_| {
                told.done();
                assert!(end.is_done_within(LIMIT));
            })
            .await;
    });
    begun.wait().await;
    holder
}
