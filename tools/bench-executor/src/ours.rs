//! Our side: the executor on its hosted platform, one pinned host thread a CPU.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;

use anyhow::Result;
use executor::hosted::Options;
use executor::trace::{ClassMask, Event};
use executor::{
    CpuId, Guarded, Message, Pending, Port, PortRef, Put, Serve, Server, Token, current, spawn,
    spawn_on,
};

use crate::bare::{Span, StartLine, over_both};
use crate::host;
use crate::measure::{Sample, Stopwatch};
use crate::slabs::Node;
use crate::traffic::{BASE, Runtime, YIELDERS, yield_by_wake, yielding};

/// Looks at the inbox before a CPU halts: more than any sample takes.
const NEVER_HALT: u32 = u32::MAX;

/// A node of pinned CPUs.
pub fn node(cpus: usize, idle_spin: u32) -> Node {
    Node::start(Options {
        cpus,
        idle_spin,
        pinned: true,
    })
}

/// One CPU, for the traffic that all executors run.
pub struct Ours;

impl Runtime for Ours {
    fn run<T, F>(core: usize, awake: bool, body: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        // Our CPUs talk within one node; its only CPU is on core 0, and halts.
        assert!(core == 0 && !awake, "two CPUs are one node's");
        Ok(node(1, 0).block_on(body))
    }

    fn spawn<F>(future: F) -> impl Future<Output = ()> + 'static
    where
        F: Future<Output = ()> + 'static,
    {
        spawn("bench", future)
    }

    fn launch<F>(future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        spawn("bench", future).detach();
    }
}

/// One turn: one of ten threads wakes itself and lets the others run, and each thread's time is counted.
pub fn yields_accounted(turns: u64) -> Result<Sample> {
    let node = node(1, 0);
    node.node().set_accounting(true);
    Ok(node.block_on(move || yielding::<Ours>(YIELDERS, turns)))
}

/// One turn: the same without accounting, and with one trace event more in each poll, if `EVENT`, of a class that is off.
pub fn yields_with_event_off<const EVENT: bool>(turns: u64) -> Result<Sample> {
    let each = turns.div_ceil(YIELDERS);
    Ok(node(1, 0).block_on(move || async move {
        let yielders: Vec<_> = (0..YIELDERS)
            .map(|_| {
                spawn("bench", async move {
                    for n in 0..=each {
                        // Whoever records knows its CPU already.
                        let cpu = black_box(current());
                        if EVENT {
                            cpu.record(Event::Mark, 0, 0, n as u32);
                        }
                        yield_by_wake().await;
                    }
                })
            })
            .collect();
        yield_by_wake().await;
        let watch = Stopwatch::one_thread();
        for yielder in yielders {
            yielder.await;
        }
        watch.stop(each * YIELDERS)
    }))
}

/// One turn: one trace event is recorded.
pub fn events(turns: u64) -> Result<Sample> {
    let node = node(1, 0);
    node.node().set_trace_mask(ClassMask::ALL);
    Ok(node.block_on(move || async move {
        current().record(Event::Mark, 0, 0, 0);
        let watch = Stopwatch::one_thread();
        for n in 0..turns {
            current().record(Event::Mark, 0, 0, n as u32);
        }
        watch.stop(turns)
    }))
}

/// A server that adds to what it is sent, at once or, if `LATE`, by its thread. It counts nothing: a sum would be a chain
/// through memory, longer than the rest of an inline call.
pub struct Adder<const LATE: bool> {
    base: Cell<u64>,
}

/// What it adds to.
pub struct Add(u64);

impl Message for Add {
    type Reply = u64;
}

impl<const LATE: bool> Server for Adder<LATE> {
    type Work = Pending<Add>;
}

impl<const LATE: bool> Serve<Add> for Adder<LATE> {
    #[inline]
    fn put(&self, Add(n): Add) -> Put<Add> {
        if LATE {
            Put::Later(Add(n))
        } else {
            Put::Done(self.base.get().wrapping_add(n))
        }
    }

    fn queue(pending: Pending<Add>) -> Pending<Add> {
        pending
    }
}

/// Starts an adder on this CPU, with its thread.
fn start_adder<const LATE: bool>() -> PortRef<Adder<LATE>> {
    let port = Port::new(Adder {
        base: Cell::new(BASE),
    });
    let handle = port.handle();
    spawn("adder", async move {
        loop {
            let pending = port.receive().await;
            let n = pending.message().0;
            pending.reply(port.server().base.get().wrapping_add(n));
        }
    })
    .detach();
    handle
}

/// One turn: a call to an idle server of the same CPU, through the handle that other CPUs use too.
pub fn inline_calls(turns: u64) -> Result<Sample> {
    calls_among::<false>(1, turns)
}

/// One turn: a call to a server of the same CPU that leaves it to its thread.
pub fn queued_calls(turns: u64) -> Result<Sample> {
    calls_among::<true>(1, turns)
}

/// One turn: a call to the next of `count` servers of the same CPU.
pub fn calls_among<const LATE: bool>(count: u64, turns: u64) -> Result<Sample> {
    Ok(node(1, 0).block_on(move || async move {
        let adders: Vec<_> = (0..count).map(|_| start_adder::<LATE>()).collect();
        // Their threads run to where they wait, and each does once what is done once.
        for adder in &adders {
            adder.call(Add(0)).await;
        }
        if let [adder] = &adders[..] {
            return calls(adder, turns, Stopwatch::one_thread).await;
        }
        let rounds = turns.div_ceil(count);
        let watch = Stopwatch::one_thread();
        for n in 0..rounds {
            for adder in &adders {
                black_box(adder.call(Add(n)).await);
            }
        }
        watch.stop(rounds * count)
    }))
}

/// One turn: a call to a server of the other CPU. Neither CPU ever halts.
pub fn calls_between_awake(turns: u64) -> Result<Sample> {
    Ok(calls_between(turns, NEVER_HALT))
}

/// One turn: a call to a server of the other CPU. Each CPU halts while the other one works.
pub fn calls_between_asleep(turns: u64) -> Result<Sample> {
    Ok(calls_between(turns, 0))
}

fn calls_between(turns: u64, idle_spin: u32) -> Sample {
    node(2, idle_spin).block_on(move || async move {
        let adder = spawn_on(CpuId(1), "start", || async { start_adder::<false>() }).await;
        // The first call makes what is made once: the rings of the pair.
        adder.call(Add(0)).await;
        calls(&adder, turns, Stopwatch::wall).await
    })
}

async fn calls<const LATE: bool>(
    adder: &PortRef<Adder<LATE>>,
    turns: u64,
    start: fn() -> Stopwatch,
) -> Sample {
    let watch = start();
    for n in 0..turns {
        black_box(adder.call(Add(n)).await);
    }
    watch.stop(turns)
}

/// A token and the word that it guards.
type Word = (Token, Guarded<u32>);

fn word() -> Word {
    let token = Token::new("bench");
    let guarded = Guarded::new(&token, 0);
    (token, guarded)
}

async fn sections((token, guarded): &Word, turns: u64) {
    for _ in 0..turns {
        token
            .hold(async |held| held.with(guarded, |word| *word = word.wrapping_add(1)))
            .await;
    }
}

/// One turn: a section of a token that nobody else wants.
pub fn tokens(turns: u64) -> Result<Sample> {
    Ok(node(1, 0).block_on(move || async move {
        let word = word();
        let watch = Stopwatch::one_thread();
        sections(&word, turns).await;
        watch.stop(turns)
    }))
}

/// One turn: a section of a token that two CPUs want, from one moment on until both have had their half of the turns.
pub fn tokens_contended(turns: u64) -> Result<Sample> {
    async fn half(shared: &(Word, StartLine), turns: u64) -> Span {
        shared.1.wait();
        let begin = host::wall_time();
        sections(&shared.0, turns).await;
        (begin, host::wall_time())
    }
    let each = turns.div_ceil(2);
    Ok(node(2, NEVER_HALT).block_on(move || async move {
        let shared = Arc::new((word(), StartLine::default()));
        let theirs = shared.clone();
        let other = spawn_on(CpuId(1), "other", move || async move {
            half(&theirs, each).await
        });
        let here = half(&shared, each).await;
        over_both([here, other.await], 2 * each)
    }))
}
