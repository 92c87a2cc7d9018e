//! tokio: a current_thread runtime a core, without the I/O and time drivers, which are cheaper to
//! park without. Same-CPU traffic is between tasks of one runtime.
//!
//! In its favour: a yield is the cheapest that tokio schedules (a task that wakes itself; its own
//! `yield_now` defers to the driver). Across cores both ends are the future that `block_on` polls,
//! which is looked at on every turn, while a spawned task's remote wake waits in the inject queue;
//! and "awake" is a task on each side that wakes itself for ever, so that neither runtime parks.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, LocalSet};

use crate::bare::pin;
use crate::ours::YIELDERS;
use crate::rows::{Sample, Stopwatch};

/// A number and where its answer goes.
type Request = (u64, oneshot::Sender<u64>);

/// Room in a request channel; one call at a time never fills it.
const ROOM: usize = 16;

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().build()?)
}

/// Runs `body` on a fresh thread bound to `core`.
fn on_core<T: Send + 'static>(
    core: usize,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(move || {
        pin(core)?;
        body()
    })
}

/// Wakes itself and lets the others run.
pub async fn yield_by_wake() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One turn: one task wakes itself and lets the others run.
pub fn yields(turns: u64) -> Result<Sample> {
    let each = turns.div_ceil(YIELDERS);
    let body = move || {
        runtime()?.block_on(async move {
            let watch = Stopwatch::one_thread();
            let yielders: Vec<_> = (0..YIELDERS)
                .map(|_| {
                    task::spawn(async move {
                        for _ in 0..each {
                            yield_by_wake().await;
                        }
                    })
                })
                .collect();
            for yielder in yielders {
                yielder.await?;
            }
            Ok(watch.stop(each * YIELDERS))
        })
    };
    on_core(0, body).join().expect("it does not panic")
}

async fn serve(mut requests: mpsc::Receiver<Request>) {
    let base = 1u64;
    while let Some((n, reply)) = requests.recv().await {
        // The caller waits for it; at the end of a run it may be gone.
        let _ = reply.send(base.wrapping_add(n));
    }
}

async fn call(
    requests: mpsc::Sender<Request>,
    turns: u64,
    start: fn() -> Stopwatch,
) -> Result<Sample> {
    let ask = async |n| -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        requests.send((n, reply)).await?;
        Ok(answer.await?)
    };
    ask(0).await?;
    let watch = start();
    for n in 0..turns {
        std::hint::black_box(ask(n).await?);
    }
    Ok(watch.stop(turns))
}

/// One turn: a request by mpsc to another task of the runtime, the reply by oneshot.
pub fn local_calls(turns: u64) -> Result<Sample> {
    let body = move || {
        let (send, receive) = mpsc::channel(ROOM);
        LocalSet::new().block_on(&runtime()?, async move {
            task::spawn_local(serve(receive));
            task::spawn_local(call(send, turns, Stopwatch::one_thread)).await?
        })
    };
    on_core(0, body).join().expect("it does not panic")
}

/// One turn: the same between two runtimes that never park.
pub fn calls_between_awake(turns: u64) -> Result<Sample> {
    calls_between(turns, true)
}

/// One turn: the same between two runtimes that park while the other one works.
pub fn calls_between_asleep(turns: u64) -> Result<Sample> {
    calls_between(turns, false)
}

fn calls_between(turns: u64, awake: bool) -> Result<Sample> {
    let (send, receive) = mpsc::channel(ROOM);
    let stay_awake = Arc::new(AtomicBool::new(awake));
    let stay = stay_awake.clone();
    let server = on_core(1, move || {
        runtime()?.block_on(async move {
            task::spawn(spin(stay));
            serve(receive).await;
            Ok(())
        })
    });
    let stay = stay_awake.clone();
    let client = on_core(0, move || {
        runtime()?.block_on(async move {
            task::spawn(spin(stay));
            call(send, turns, Stopwatch::wall).await
        })
    });
    let sample = client.join().expect("it does not panic");
    stay_awake.store(false, Ordering::Relaxed);
    server.join().expect("it does not panic")?;
    sample
}

async fn spin(while_set: Arc<AtomicBool>) {
    while while_set.load(Ordering::Relaxed) {
        yield_by_wake().await;
    }
}
