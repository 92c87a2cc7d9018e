//! embassy-executor on a host: its `platform-std`, which parks on a condition variable.

use std::cell::{Cell, OnceCell};
use std::future::{Pending, pending};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use embassy_executor::raw::TaskStorage;
use embassy_executor::{Executor, Spawner};
use embassy_sync::blocking_mutex::raw::{CriticalSectionRawMutex, NoopRawMutex, RawMutex};
use embassy_sync::channel::Channel;
use embassy_sync::signal::Signal;

use crate::allocations::Watch;
use crate::host::pin;
use crate::measure::{Sample, Stopwatch};
use crate::traffic::{BASE, Link, Runtime, STOP, spin, yield_by_wake};

/// How it is configured.
pub const FAVOUR: &str = "platform-std. Tasks have no join, so a signal tells their end, and the same storage is used again \
and again; a million of them are one array, as statics would be. Channels of embassy-sync, on one core without a lock. \
Awake: a task that wakes itself.";

/// The runtime. It never goes away, nor does what it runs: both are meant for statics.
pub struct Embassy;

thread_local! {
    static SPAWNER: Cell<Option<Spawner>> = const { Cell::new(None) };
}

fn spawner() -> Spawner {
    SPAWNER.get().expect("it runs on this thread")
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

impl Runtime for Embassy {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        pin(core)?;
        let output = Rc::new(OnceCell::new());
        let told = output.clone();
        Box::leak(Box::new(Executor::new())).run_until(
            |spawner| {
                SPAWNER.set(Some(spawner));
                if awake {
                    Self::launch(spin());
                }
                Self::launch(async move {
                    // Empty until here.
                    let _ = told.set(body().await);
                });
            },
            || output.get().is_some(),
        );
        let output = Rc::into_inner(output).and_then(OnceCell::into_inner);
        output.context("the first task keeps its output")
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        let end = leak(Signal::<NoopRawMutex, ()>::new());
        Self::launch(async move {
            future.await;
            end.signal(());
        });
        end.wait()
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        let token = leak(TaskStorage::new()).spawn(|| future);
        spawner().spawn(token.expect("it is new"));
    }
}

/// One turn: an empty task is spawned, runs, and says that it has ended. One storage for all.
pub fn spawns(turns: u64) -> Result<Sample> {
    Embassy::run(0, false, move || async move {
        let end: &'static Signal<NoopRawMutex, ()> = leak(Signal::new());
        let storage = leak(TaskStorage::new());
        let watch = Stopwatch::one_thread();
        for _ in 0..turns {
            let token = storage.spawn(|| async { end.signal(()) });
            spawner().spawn(token.expect("the last one has ended"));
            end.wait().await;
        }
        watch.stop(turns)
    })
}

/// The bytes of an idle task, of `count` of them in one array.
pub fn idle_bytes(count: u64) -> Result<Sample> {
    Embassy::run(0, false, move || async move {
        let watch = Watch::open();
        let storages: Vec<_> = (0..count)
            .map(|_| TaskStorage::<Pending<()>>::new())
            .collect();
        for storage in storages.leak() {
            let token = storage.spawn(pending);
            spawner().spawn(token.expect("it is new"));
        }
        yield_by_wake().await;
        Sample::from(watch.close().0 as f64 / count as f64)
    })
}

/// Two channels, which a lock of kind `M` guards.
pub struct Channels<M>(std::marker::PhantomData<M>);

/// Within one executor.
pub type LocalChannels = Channels<NoopRawMutex>;
/// Between two.
pub type SharedChannels = Channels<CriticalSectionRawMutex>;

/// One way.
type Way<M> = Channel<M, u64, 16>;

impl<M: RawMutex + 'static> Link for Channels<M> {
    type Client = (&'static Way<M>, &'static Way<M>);
    type Asker = (&'static Way<M>, &'static Way<M>);
    type Server = (&'static Way<M>, &'static Way<M>);

    fn open() -> (Self::Client, Self::Server) {
        let ways = (leak(Way::new()), leak(Way::new()));
        (ways, ways)
    }

    async fn connect(client: Self::Client) -> Self::Asker {
        client
    }

    async fn ask((requests, replies): &mut Self::Asker, n: u64) -> u64 {
        requests.send(n).await;
        replies.receive().await
    }

    async fn serve((requests, replies): Self::Server) {
        loop {
            let n = requests.receive().await;
            replies.send(BASE.wrapping_add(n)).await;
            if n == STOP {
                break;
            }
        }
    }
}
