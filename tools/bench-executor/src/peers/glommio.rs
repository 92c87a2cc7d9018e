//! glommio: an executor a core, each with its io_uring.

use std::time::Duration;

use anyhow::{Result, anyhow};
use glommio::channels::{local_channel, shared_channel};
use glommio::{LocalExecutorBuilder, Placement, spawn_local};

use crate::traffic::{BASE, Link, Runtime, STOP};

/// How it is configured.
pub const FAVOUR: &str = "replies go through a channel made once (glommio has no oneshot): local channels on one core, shared \
ones between cores. Awake: its own spin_before_park.";

/// Longer than any sample.
const NEVER_PARK: Duration = Duration::from_secs(60);

/// Room in a channel; one call at a time never fills it.
const ROOM: usize = 16;

/// The runtime.
pub struct Glommio;

impl Runtime for Glommio {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let mut builder = LocalExecutorBuilder::new(Placement::Fixed(core));
        if awake {
            builder = builder.spin_before_park(NEVER_PARK);
        }
        let executor = builder.make().map_err(|error| anyhow!("{error}"))?;
        Ok(executor.run(async move { body().await }))
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        spawn_local(future)
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        spawn_local(future).detach();
    }
}

/// A pair of local channels.
pub struct LocalChannels;

impl Link for LocalChannels {
    type Client = (
        local_channel::LocalSender<u64>,
        local_channel::LocalReceiver<u64>,
    );
    type Asker = Self::Client;
    type Server = Self::Client;

    fn open() -> (Self::Client, Self::Server) {
        let (ask, requests) = local_channel::new_bounded(ROOM);
        let (answer, replies) = local_channel::new_bounded(ROOM);
        ((ask, replies), (answer, requests))
    }

    async fn connect(client: Self::Client) -> Self::Asker {
        client
    }

    async fn ask((ask, replies): &mut Self::Asker, n: u64) -> u64 {
        ask.send(n).await.expect("the server listens");
        replies.recv().await.expect("the server answers")
    }

    async fn serve((answer, requests): Self::Server) {
        while let Some(n) = requests.recv().await {
            let sent = answer.send(BASE.wrapping_add(n)).await;
            if sent.is_err() || n == STOP {
                break;
            }
        }
    }
}

/// A pair of shared channels.
pub struct SharedChannels;

impl Link for SharedChannels {
    type Client = (
        shared_channel::SharedSender<u64>,
        shared_channel::SharedReceiver<u64>,
    );
    type Asker = (
        shared_channel::ConnectedSender<u64>,
        shared_channel::ConnectedReceiver<u64>,
    );
    type Server = Self::Client;

    fn open() -> (Self::Client, Self::Server) {
        let (ask, requests) = shared_channel::new_bounded(ROOM);
        let (answer, replies) = shared_channel::new_bounded(ROOM);
        ((ask, replies), (answer, requests))
    }

    async fn connect((ask, replies): Self::Client) -> Self::Asker {
        (ask.connect().await, replies.connect().await)
    }

    async fn ask((ask, replies): &mut Self::Asker, n: u64) -> u64 {
        ask.send(n).await.expect("the server listens");
        replies.recv().await.expect("the server answers")
    }

    async fn serve((answer, requests): Self::Server) {
        // In the client's order: each end waits until its other end has connected.
        let requests = requests.connect().await;
        let answer = answer.connect().await;
        while let Some(n) = requests.recv().await {
            let sent = answer.send(BASE.wrapping_add(n)).await;
            if sent.is_err() || n == STOP {
                break;
            }
        }
    }
}
