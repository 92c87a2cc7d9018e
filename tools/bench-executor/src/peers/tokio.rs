//! tokio: a current_thread runtime a core, plain and with a `LocalSet`.

use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, LocalSet};

use crate::host::pin;
use crate::traffic::{BASE, Link, Runtime, STOP, spin};

/// How it is configured.
pub const FAVOUR: &str = "current_thread runtimes without I/O and time drivers, which are cheaper to park without. Across \
cores both ends are the future that block_on polls, which is looked at on every turn, while a spawned task's remote wake \
waits in the inject queue. Awake: a task that wakes itself.";

/// Tasks of the runtime itself, which has timers or not.
pub struct CurrentThread<const TIMERS: bool = false>;

/// A task of a runtime that never leaves its thread.
struct Here<F>(F);

// SAFETY: a current_thread runtime polls and drops its tasks' futures on the thread that runs it and drops it, which here is
// the one that spawned them.
unsafe impl<F> Send for Here<F> {}

impl<F: Future> Future for Here<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the field is pinned as its struct is.
        unsafe { self.map_unchecked_mut(|here| &mut here.0) }.poll(context)
    }
}

impl<const TIMERS: bool> Runtime for CurrentThread<TIMERS> {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        pin(core)?;
        let mut builder = Builder::new_current_thread();
        if TIMERS {
            builder.enable_time();
        }
        Ok(builder.build()?.block_on(async move {
            if awake {
                Self::launch(spin());
            }
            body().await
        }))
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        let task = task::spawn(Here(future));
        async move { task.await.expect("it is not cancelled") }
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        task::spawn(Here(future));
    }
}

/// Tasks of a `LocalSet`.
pub struct Local;

impl Runtime for Local {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        pin(core)?;
        let runtime = Builder::new_current_thread().build()?;
        let output = LocalSet::new().block_on(&runtime, async move {
            if awake {
                Self::launch(spin());
            }
            task::spawn_local(async move { body().await }).await
        });
        Ok(output?)
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        let task = task::spawn_local(future);
        async move { task.await.expect("it is not cancelled") }
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        task::spawn_local(future);
    }
}

/// A request by mpsc, the reply by a oneshot that travels with it.
pub struct Channels;

/// A number and where its answer goes.
type Request = (u64, oneshot::Sender<u64>);

impl Link for Channels {
    type Client = mpsc::Sender<Request>;
    type Asker = mpsc::Sender<Request>;
    type Server = mpsc::Receiver<Request>;

    fn open() -> (Self::Client, Self::Server) {
        mpsc::channel(16)
    }

    async fn connect(client: Self::Client) -> Self::Asker {
        client
    }

    async fn ask(asker: &mut Self::Asker, n: u64) -> u64 {
        let (reply, answer) = oneshot::channel();
        asker.send((n, reply)).await.expect("the server listens");
        answer.await.expect("the server answers")
    }

    async fn serve(mut server: Self::Server) {
        while let Some((n, reply)) = server.recv().await {
            reply.send(BASE.wrapping_add(n)).expect("the client waits");
            if n == STOP {
                break;
            }
        }
    }
}
