//! The traffic that every executor runs, written once: a peer's module says only how that peer runs, spawns and sends.
//!
//! An executor of futures is a [`Runtime`]; what carries a request to a server task and its reply back is a [`Link`].
//! Both are generic, so that each peer's traffic is compiled for it alone, as it would be by hand.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::Poll;
use std::thread;

use anyhow::Result;

use crate::measure::{Sample, Stopwatch};

/// How many threads take turns.
pub const YIELDERS: u64 = 10;

/// The request that ends a server.
pub const STOP: u64 = u64::MAX;

/// What a server adds to each request.
pub const BASE: u64 = 1;

/// One executor.
pub trait Runtime: 'static {
    /// Runs the future that `body` makes, on a thread bound to `core`, until it is ready; other tasks are then left.
    /// With `awake`, the executor never parks, whatever its tasks do.
    ///
    /// # Errors
    /// The executor cannot run here.
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static;

    /// Spawns a task and gives what waits for its end.
    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static;

    /// Spawns a task that nobody waits for.
    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static;
}

/// A way to ask another task and to be answered. The server adds [`BASE`] to what it gets, and ends after [`STOP`].
pub trait Link: 'static {
    /// The client's end, as it is made.
    type Client: 'static;
    /// The client's end where it is used.
    type Asker: 'static;
    /// The server's end.
    type Server: 'static;

    /// Makes both ends.
    fn open() -> (Self::Client, Self::Server);
    /// Makes the client's end ready, inside of its runtime.
    fn connect(client: Self::Client) -> impl Future<Output = Self::Asker>;
    /// Sends one request and waits for its reply.
    fn ask(asker: &mut Self::Asker, n: u64) -> impl Future<Output = u64>;
    /// Answers requests.
    fn serve(server: Self::Server) -> impl Future<Output = ()>;
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

/// Keeps its executor from parking, for ever.
pub async fn spin() {
    loop {
        yield_by_wake().await;
    }
}

/// One turn: one of ten tasks wakes itself and lets the others run.
pub fn yields<R: Runtime>(turns: u64) -> Result<Sample> {
    yields_of::<R>(YIELDERS, turns)
}

/// [`yields`] with `count` tasks.
pub fn yields_of<R: Runtime>(count: u64, turns: u64) -> Result<Sample> {
    R::run(0, false, move || yielding::<R>(count, turns))
}

/// What the tasks of [`yielding`] share.
struct Yielders {
    watch: Cell<Option<Stopwatch>>,
    /// Tasks that have turns left.
    left: Cell<u64>,
    taken: Cell<Option<Sample>>,
}

/// The body of [`yields_of`]. The watch starts with the first second turn, for first polls touch new memory, and stops with
/// the last turn of all: an executor may let one task go on and on. Where they take turns, none ends before it stops.
pub async fn yielding<R: Runtime>(count: u64, turns: u64) -> Sample {
    let each = turns.div_ceil(count);
    let all = Rc::new(Yielders {
        watch: Cell::new(None),
        left: Cell::new(count),
        taken: Cell::new(None),
    });
    let yielders: Vec<_> = (0..count)
        .map(|_| {
            let all = all.clone();
            R::spawn(async move {
                yield_by_wake().await;
                all.start();
                for _ in 0..each {
                    yield_by_wake().await;
                }
                all.end(each * count);
                yield_by_wake().await;
            })
        })
        .collect();
    for yielder in yielders {
        yielder.await;
    }
    all.taken.take().expect("all have taken their turns")
}

impl Yielders {
    /// Starts the watch, unless it runs.
    fn start(&self) {
        let watch = self.watch.take();
        self.watch
            .set(Some(watch.unwrap_or_else(Stopwatch::one_thread)));
    }

    /// One has taken its turns; the last one stops the watch after `turns` of all.
    fn end(&self, turns: u64) {
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 {
            self.taken
                .set(self.watch.take().map(|watch| watch.stop(turns)));
        }
    }
}

/// One turn: an empty task is spawned, runs, and is joined.
pub fn spawns<R: Runtime>(turns: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        let watch = Stopwatch::one_thread();
        for _ in 0..turns {
            R::spawn(async {}).await;
        }
        watch.stop(turns)
    })
}

/// One turn: a request to another task of the same executor, and its reply.
pub fn local_calls<R: Runtime, L: Link>(turns: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        let (client, server) = L::open();
        R::launch(L::serve(server));
        let mut asker = L::connect(client).await;
        calls::<L>(&mut asker, turns, Stopwatch::one_thread).await
    })
}

/// One turn: a request to another executor's task, and its reply. Neither executor ever parks.
pub fn calls_between_awake<R: Runtime, L: Link>(turns: u64) -> Result<Sample>
where
    L::Client: Send,
    L::Server: Send,
{
    calls_between::<R, L>(turns, true)
}

/// One turn: the same. Each executor parks while the other one works.
pub fn calls_between_asleep<R: Runtime, L: Link>(turns: u64) -> Result<Sample>
where
    L::Client: Send,
    L::Server: Send,
{
    calls_between::<R, L>(turns, false)
}

fn calls_between<R: Runtime, L: Link>(turns: u64, awake: bool) -> Result<Sample>
where
    L::Client: Send,
    L::Server: Send,
{
    let (client, server) = L::open();
    let server = thread::spawn(move || R::run(1, awake, move || L::serve(server)));
    let sample = R::run(0, awake, move || async move {
        let mut asker = L::connect(client).await;
        calls::<L>(&mut asker, turns, Stopwatch::wall).await
    });
    server.join().expect("it does not panic")?;
    sample
}

async fn calls<L: Link>(asker: &mut L::Asker, turns: u64, start: fn() -> Stopwatch) -> Sample {
    // The first call makes what is made once.
    L::ask(asker, 0).await;
    let watch = start();
    for n in 0..turns {
        black_box(L::ask(asker, n).await);
    }
    let sample = watch.stop(turns);
    L::ask(asker, STOP).await;
    sample
}
