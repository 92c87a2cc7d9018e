//! glommio: an executor a core, each with its io_uring. Same-CPU traffic goes through a pair of
//! local channels, the rest through a pair of shared ones.
//!
//! In its favour: replies go through a channel made once (glommio has no oneshot), and "awake" is
//! its own `spin_before_park`, longer than any sample.

use std::time::Duration;

use anyhow::{Result, anyhow};
use glommio::channels::{local_channel, shared_channel};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, spawn_local};

use crate::ours::YIELDERS;
use crate::rows::{Sample, Stopwatch};
use crate::tokio_peer::yield_by_wake;

/// Room in a channel; one call at a time never fills it.
const ROOM: usize = 16;

/// Longer than any sample.
const NEVER_PARK: Duration = Duration::from_secs(60);

fn on_core<T, F>(
    core: usize,
    spin: Option<Duration>,
    body: impl FnOnce() -> F + Send + 'static,
) -> Result<ExecutorJoinHandle<Result<T>>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + 'static,
{
    let mut builder = LocalExecutorBuilder::new(Placement::Fixed(core));
    if let Some(spin) = spin {
        builder = builder.spin_before_park(spin);
    }
    builder.spawn(body).map_err(|error| anyhow!("{error}"))
}

fn join<T: Send + 'static>(handle: ExecutorJoinHandle<Result<T>>) -> Result<T> {
    handle.join().map_err(|error| anyhow!("{error}"))?
}

/// One turn: one task wakes itself and lets the others run.
pub fn yields(turns: u64) -> Result<Sample> {
    let each = turns.div_ceil(YIELDERS);
    join(on_core(0, None, move || async move {
        let watch = Stopwatch::one_thread();
        let yielders: Vec<_> = (0..YIELDERS)
            .map(|_| {
                spawn_local(async move {
                    for _ in 0..each {
                        yield_by_wake().await;
                    }
                })
            })
            .collect();
        for yielder in yielders {
            yielder.await;
        }
        Ok(watch.stop(each * YIELDERS))
    })?)
}

/// One turn: a request by local channel to another task, the reply by another one.
pub fn local_calls(turns: u64) -> Result<Sample> {
    join(on_core(0, None, move || async move {
        let (ask, requests) = local_channel::new_bounded::<u64>(ROOM);
        let (answer, replies) = local_channel::new_bounded::<u64>(ROOM);
        spawn_local(async move {
            let base = 1u64;
            while let Some(n) = requests.recv().await {
                if answer.send(base.wrapping_add(n)).await.is_err() {
                    break;
                }
            }
        })
        .detach();
        let watch = Stopwatch::one_thread();
        for n in 0..turns {
            ask.send(n).await.map_err(|error| anyhow!("{error}"))?;
            std::hint::black_box(replies.recv().await);
        }
        Ok(watch.stop(turns))
    })?)
}

/// One turn: the same between two executors that never park.
pub fn calls_between_awake(turns: u64) -> Result<Sample> {
    calls_between(turns, Some(NEVER_PARK))
}

/// One turn: the same between two executors that park while the other one works.
pub fn calls_between_asleep(turns: u64) -> Result<Sample> {
    calls_between(turns, None)
}

fn calls_between(turns: u64, spin: Option<Duration>) -> Result<Sample> {
    let (ask, requests) = shared_channel::new_bounded::<u64>(ROOM);
    let (answer, replies) = shared_channel::new_bounded::<u64>(ROOM);
    let server = on_core(1, spin, move || async move {
        let (requests, answer) = (requests.connect().await, answer.connect().await);
        let base = 1u64;
        while let Some(n) = requests.recv().await {
            if answer.send(base.wrapping_add(n)).await.is_err() {
                break;
            }
        }
        Ok(())
    })?;
    let client = on_core(0, spin, move || async move {
        let (ask, replies) = (ask.connect().await, replies.connect().await);
        let turn = async |n| -> Result<u64> {
            ask.send(n).await.map_err(|error| anyhow!("{error}"))?;
            let reply = replies.recv().await;
            reply.ok_or_else(|| anyhow!("the server is gone"))
        };
        turn(0).await?;
        let watch = Stopwatch::wall();
        for n in 0..turns {
            std::hint::black_box(turn(n).await?);
        }
        Ok(watch.stop(turns))
    })?;
    let sample = join(client);
    join(server)?;
    sample
}
