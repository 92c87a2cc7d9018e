//! Our side: the executor on its hosted platform, one pinned host thread a CPU.

use std::cell::Cell;

use anyhow::Result;
use executor::hosted::{Hosted, Options};
use executor::{
    CpuId, Message, Pending, Port, PortRef, Put, Serve, Server, spawn, spawn_on, yield_now,
};

use crate::rows::{Sample, Stopwatch};

/// How many threads take turns.
pub const YIELDERS: u64 = 10;

/// Looks at the inbox before a CPU halts: more than any sample takes.
const NEVER_HALT: u32 = u32::MAX;

/// A server that adds to what it is sent. It counts nothing: a sum would be a chain through memory, longer than the
/// rest of an inline call.
struct Adder {
    base: Cell<u64>,
}

struct Add(u64);

impl Message for Add {
    type Reply = u64;
}

impl Server for Adder {
    type Work = Pending<Add>;
}

impl Serve<Add> for Adder {
    #[inline]
    fn put(&self, Add(n): Add) -> Put<Add> {
        Put::Done(self.base.get().wrapping_add(n))
    }

    fn queue(pending: Pending<Add>) -> Pending<Add> {
        pending
    }
}

/// Starts an adder on this CPU, with its thread.
fn start_adder() -> PortRef<Adder> {
    let port = Port::new(Adder { base: Cell::new(1) });
    let handle = port.handle();
    spawn("adder", async move {
        loop {
            let pending = port.receive().await;
            // Always Done: the adder never says Later.
            let _ = pending.serve(port.server());
        }
    })
    .detach();
    handle
}

fn node(cpus: usize, idle_spin: u32) -> Hosted {
    Hosted::start(Options {
        cpus,
        idle_spin,
        pinned: true,
    })
}

/// One turn: one thread wakes itself and lets the others run.
pub fn yields(turns: u64) -> Result<Sample> {
    let each = turns.div_ceil(YIELDERS);
    let sample = node(1, 0).block_on(move || async move {
        let watch = Stopwatch::one_thread();
        let yielders: Vec<_> = (0..YIELDERS)
            .map(|_| {
                spawn("yielder", async move {
                    for _ in 0..each {
                        yield_now().await;
                    }
                })
            })
            .collect();
        for yielder in yielders {
            yielder.await;
        }
        watch.stop(each * YIELDERS)
    });
    Ok(sample)
}

/// One turn: a call to an idle server of the same CPU, through the handle that other CPUs use too.
pub fn inline_calls(turns: u64) -> Result<Sample> {
    Ok(node(1, 0)
        .block_on(move || async move { call(start_adder(), turns, Stopwatch::one_thread).await }))
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
        let adder = spawn_on(CpuId(1), "start", || async { start_adder() }).await;
        call(adder, turns, Stopwatch::wall).await
    })
}

async fn call(adder: PortRef<Adder>, turns: u64, start: fn() -> Stopwatch) -> Sample {
    // The first call makes what is made once: the rings of the pair.
    adder.call(Add(0)).await;
    let watch = start();
    for n in 0..turns {
        std::hint::black_box(adder.call(Add(n)).await);
    }
    watch.stop(turns)
}
