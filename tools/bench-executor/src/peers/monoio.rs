//! monoio: a runtime a core, on io_uring where the host has it.

use anyhow::{Result, ensure};
use local_sync::{mpsc, oneshot};
use monoio::{FusionDriver, RuntimeBuilder};

use crate::host::pin;
use crate::traffic::{BASE, Link, Runtime, STOP};

/// How it is configured.
pub const FAVOUR: &str = "its own choice of driver (io_uring, else epoll), no timers. On one core the channels of its authors \
(local-sync), between cores tokio's, which are the fastest that it can use, and its own cross-thread wakes (`sync`). It has no \
row among CPUs that are awake: it looks for wakes from other threads only as it parks.";

/// The runtime.
pub struct Monoio;

impl Runtime for Monoio {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        ensure!(!awake, "it hears of other threads only as it parks");
        pin(core)?;
        let mut runtime = RuntimeBuilder::<FusionDriver>::new().build()?;
        Ok(runtime.block_on(async move { body().await }))
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        monoio::spawn(future)
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        drop(monoio::spawn(future));
    }
}

/// A request by local mpsc, the reply by a oneshot that travels with it.
pub struct LocalChannels;

/// A number and where its answer goes.
type Request = (u64, oneshot::Sender<u64>);

impl Link for LocalChannels {
    type Client = mpsc::bounded::Tx<Request>;
    type Asker = mpsc::bounded::Tx<Request>;
    type Server = mpsc::bounded::Rx<Request>;

    fn open() -> (Self::Client, Self::Server) {
        mpsc::bounded::channel(16)
    }

    async fn connect(client: Self::Client) -> Self::Asker {
        client
    }

    async fn ask(asker: &mut Self::Asker, n: u64) -> u64 {
        let (reply, answer) = oneshot::channel();
        let sent = asker.send((n, reply)).await;
        assert!(sent.is_ok(), "the server listens");
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
