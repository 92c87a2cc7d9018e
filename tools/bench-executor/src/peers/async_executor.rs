//! async-executor: a `StaticLocalExecutor` a core, run by futures-lite's `block_on`.

use std::cell::Cell;

use anyhow::Result;
use async_channel::{Receiver, Sender};
use async_executor::{LocalExecutor, StaticLocalExecutor};
use futures_lite::future::block_on;

use crate::host::pin;
use crate::traffic::{BASE, Link, Runtime, STOP, spin};

/// How it is configured.
pub const FAVOUR: &str = "the static local executor, its fastest, without a reactor. Replies go through an async-channel made \
once. Awake: a task that wakes itself.";

/// The runtime.
pub struct AsyncExecutor;

thread_local! {
    static EXECUTOR: Cell<Option<&'static StaticLocalExecutor>> = const { Cell::new(None) };
}

fn executor() -> &'static StaticLocalExecutor {
    EXECUTOR.get().expect("it runs on this thread")
}

impl Runtime for AsyncExecutor {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        pin(core)?;
        // What is left in it at the end is leaked with it.
        EXECUTOR.set(Some(LocalExecutor::new().leak()));
        if awake {
            Self::launch(spin());
        }
        Ok(block_on(executor().run(async move { body().await })))
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        executor().spawn(future)
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        executor().spawn(future).detach();
    }
}

/// A pair of channels.
pub struct Channels;

impl Link for Channels {
    type Client = (Sender<u64>, Receiver<u64>);
    type Asker = (Sender<u64>, Receiver<u64>);
    type Server = (Sender<u64>, Receiver<u64>);

    fn open() -> (Self::Client, Self::Server) {
        let (ask, requests) = async_channel::bounded(16);
        let (answer, replies) = async_channel::bounded(16);
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
        while let Ok(n) = requests.recv().await {
            let sent = answer.send(BASE.wrapping_add(n)).await;
            if sent.is_err() || n == STOP {
                break;
            }
        }
    }
}
