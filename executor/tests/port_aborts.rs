//! Aborts: a caller that goes away, or asks the server to stop, at every state of its message (traps 39 to 41).

use executor::{
    Call, CpuId, Message, Pending, Port, PortRef, Put, Serve, Server, current, current_cpu, sleep,
    spawn, spawn_on, yield_now,
};
use futures_util::future::{Either, select};
use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

mod support;

use support::{poll_once, run, until};

/// Carries something that is counted, there and back.
struct Job(Arc<()>);
impl Message for Job {
    type Reply = (u32, Arc<()>);
}

/// Answers at once only if it was made so.
struct Worker {
    at_once: bool,
}
impl Server for Worker {
    type Work = Pending<Job>;
}
impl Serve<Job> for Worker {
    fn put(&self, message: Job) -> Put<Job> {
        if self.at_once {
            Put::Done((0, message.0))
        } else {
            Put::Later(message)
        }
    }
    fn queue(pending: Pending<Job>) -> Pending<Job> {
        pending
    }
}

async fn is_pending<R>(call: &mut Call<R>) -> bool {
    poll_once(call).await.is_pending()
}

/// How far a message goes before its caller acts.
const ON_ITS_WAY: u32 = 0;
const QUEUED: u32 = 1;
const TAKEN: u32 = 2;
const HANDED_ON: u32 = 3;
const REPLIED: u32 = 4;
const ENDED: u32 = 5;

/// How far the message may go, and how far it has gone.
#[derive(Default)]
struct Stages {
    allowed: AtomicU32,
    reached: AtomicU32,
}

impl Stages {
    fn allow(&self, stage: u32) {
        self.allowed.store(stage, Ordering::Release);
    }
    fn has_reached(&self, stage: u32) -> bool {
        self.reached.load(Ordering::Acquire) >= stage
    }
    async fn step(&self, stage: u32) {
        until("leave to go on", || {
            self.allowed.load(Ordering::Acquire) >= stage
        })
        .await;
    }
    fn reach(&self, stage: u32) {
        self.reached.store(stage, Ordering::Release);
    }
}

/// A port of `cpu` whose thread takes a message, hands it on to a second port of that CPU, and answers it there.
async fn two_desks(cpu: u16, stages: Arc<Stages>) -> PortRef<Worker> {
    spawn_on(CpuId(cpu), "open", move || async move {
        let second = Port::new(Worker { at_once: false });
        let (next, theirs) = (second.handle(), stages.clone());
        spawn("second", async move {
            loop {
                let pending = second.receive().await;
                theirs.reach(HANDED_ON);
                theirs.step(REPLIED).await;
                let token = pending.message().0.clone();
                pending.reply((1, token));
                theirs.reach(REPLIED);
            }
        })
        .detach();
        let first = Port::new(Worker { at_once: false });
        let handle = first.handle();
        spawn("first", async move {
            loop {
                // Nothing gets in while this CPU does nothing else.
                while current_cpu() != CpuId(0)
                    && stages.allowed.load(Ordering::Acquire) == ON_ITS_WAY
                {
                    std::hint::spin_loop();
                }
                if first.queued() > 0 && !stages.has_reached(QUEUED) {
                    stages.reach(QUEUED);
                }
                if stages.allowed.load(Ordering::Acquire) < TAKEN || first.queued() == 0 {
                    yield_now().await;
                    continue;
                }
                let pending = first.receive().await;
                stages.reach(TAKEN);
                stages.step(HANDED_ON).await;
                next.forward(pending);
            }
        })
        .detach();
        handle
    })
    .await
}

#[test]
fn trap_39_a_caller_may_go_away_or_abort_at_every_state() {
    let token = Arc::new(());
    let ours = token.clone();
    run(2, || async move {
        for cpu in [0, 1] {
            let stages = Arc::new(Stages::default());
            stages.allow(QUEUED);
            let port = two_desks(cpu, stages.clone()).await;
            for state in ON_ITS_WAY..=REPLIED {
                for (polled, leaves) in [(false, false), (false, true), (true, false), (true, true)]
                {
                    stages.reach(ON_ITS_WAY);
                    stages.allow(state);
                    let mut call = port.call(Job(ours.clone()));
                    if polled {
                        assert!(state == REPLIED || is_pending(&mut call).await);
                    }
                    until("the state", || stages.has_reached(state)).await;
                    if leaves {
                        drop(call);
                        stages.allow(ENDED);
                    } else {
                        call.abort();
                        stages.allow(ENDED);
                        assert_eq!(call.await.0, 1, "the answer comes all the same");
                    }
                    until("the reply", || stages.has_reached(REPLIED)).await;
                    until("the end of all that was sent", || {
                        Arc::strong_count(&ours) == 2
                    })
                    .await;
                }
            }
        }
        let port = Port::new(Worker { at_once: true });
        let done = port.call(Job(ours.clone()));
        done.abort();
        assert_eq!(done.await.0, 0, "an abort that comes too late is nothing");
        drop(port.call(Job(ours.clone())));
        assert_eq!(Arc::strong_count(&ours), 2);
        assert_eq!(current().stats().ports_aborted.get(), 32);
    });
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn trap_40_an_abort_is_asked_once_and_the_caller_waits_for_whatever_comes() {
    run(2, || async {
        let stages = Arc::new(Stages::default());
        let theirs = stages.clone();
        let port = spawn_on(CpuId(1), "open", move || async move {
            let port = Port::new(Worker { at_once: false });
            let handle = port.handle();
            spawn("deaf", async move {
                let mut pending = port.receive().await;
                pending.aborted().await;
                theirs.reach(TAKEN);
                // A server may finish all the same, and in its own time.
                theirs.step(REPLIED).await;
                assert!(pending.is_aborted());
                let token = pending.message().0.clone();
                pending.reply((7, token));
            })
            .detach();
            handle
        })
        .await;
        let mut call = port.call(Job(Arc::default()));
        assert!(is_pending(&mut call).await);
        call.abort();
        call.abort();
        assert_eq!(
            current().stats().ports_aborted.get(),
            1,
            "two signals, one abort"
        );
        until("the server is told", || stages.has_reached(TAKEN)).await;
        assert!(
            is_pending(&mut call).await,
            "nothing but a reply ends a call"
        );
        call.abort();
        stages.allow(REPLIED);
        assert_eq!(
            call.await.0,
            7,
            "the late result, and no error in its place"
        );
        assert_eq!(current().stats().ports_aborted.get(), 1);
    });
}

#[test]
fn trap_41_an_abort_that_races_with_the_reply_does_nothing_or_is_seen() {
    run(2, || async {
        let port = spawn_on(CpuId(1), "open", || async {
            let port = Port::new(Worker { at_once: false });
            let handle = port.handle();
            spawn("quick", async move {
                let mut turn = 0u32;
                loop {
                    let mut pending = port.receive().await;
                    turn += 1;
                    if turn.is_multiple_of(3) {
                        // Watched, and left watched.
                        poll_fn(|context| {
                            let _ = pending.poll_aborted(context);
                            Poll::Ready(())
                        })
                        .await;
                    }
                    let token = pending.message().0.clone();
                    pending.reply((u32::from(turn.is_multiple_of(7)), token));
                }
            })
            .detach();
            handle
        })
        .await;
        let token = Arc::new(());
        for round in 0..100_000u32 {
            let mut call = port.call(Job(token.clone()));
            if round.is_multiple_of(2) {
                let _ = is_pending(&mut call).await && {
                    for _ in 0..round % 64 {
                        std::hint::spin_loop();
                    }
                    call.abort();
                    call.await;
                    true
                };
            } else {
                for _ in 0..round % 64 {
                    std::hint::spin_loop();
                }
                call.abort();
                if round.is_multiple_of(3) {
                    drop(call);
                } else {
                    call.await;
                }
            }
        }
        until("the last reply", || Arc::strong_count(&token) == 1).await;
    });
}

#[test]
fn a_server_that_waits_for_something_else_is_told_of_an_abort() {
    run(2, || async {
        let stages = Arc::new(Stages::default());
        let theirs = stages.clone();
        let port = spawn_on(CpuId(1), "open", move || async move {
            let port = Port::new(Worker { at_once: false });
            let handle = port.handle();
            spawn("sleeper", async move {
                let mut pending = port.receive().await;
                theirs.reach(TAKEN);
                let began = current().poll_count();
                let hours = sleep(Duration::from_secs(3600));
                let told = matches!(
                    select(pin!(pending.aborted()), hours).await,
                    Either::Left(_)
                );
                assert!(told);
                assert!(
                    current().poll_count() - began < 10,
                    "it did not look again and again"
                );
                let token = pending.message().0.clone();
                pending.reply((4, token));
            })
            .detach();
            handle
        })
        .await;
        let mut call = port.call(Job(Arc::default()));
        assert!(is_pending(&mut call).await);
        until("the server sleeps", || stages.has_reached(TAKEN)).await;
        executor::run_on(CpuId(1), |_| ()).await;
        call.abort();
        assert_eq!(call.await.0, 4);
    });
}

#[test]
fn a_server_that_holds_many_messages_finds_the_one_that_is_aborted() {
    run(2, || async {
        let held = Arc::new(AtomicU32::new(0));
        let count = held.clone();
        let port = spawn_on(CpuId(1), "open", || async {
            let port = Port::new(Worker { at_once: false });
            let handle = port.handle();
            spawn("searcher", async move {
                let mut held = Vec::new();
                while held.len() < 10 {
                    held.push(port.receive().await);
                }
                count.store(10, Ordering::Release);
                while !held.is_empty() {
                    let found = poll_fn(|context| {
                        let aborted =
                            |pending: &mut Pending<Job>| pending.poll_aborted(context).is_ready();
                        match held.iter_mut().position(aborted) {
                            Some(found) => Poll::Ready(found),
                            None => Poll::Pending,
                        }
                    })
                    .await;
                    let pending = held.remove(found);
                    let token = pending.message().0.clone();
                    pending.reply((4, token));
                }
            })
            .detach();
            handle
        })
        .await;
        let token = Arc::new(());
        let mut calls: Vec<_> = (0..10).map(|_| port.call(Job(token.clone()))).collect();
        until("all are taken", || held.load(Ordering::Acquire) == 10).await;
        for nth in [7, 0, 3] {
            let call = calls.remove(nth);
            call.abort();
            assert_eq!(call.await.0, 4);
        }
        // Those that go away are found as well.
        assert!(calls.iter().all(|call| !call.is_done()));
        drop(calls);
        until("the last is answered", || Arc::strong_count(&token) == 1).await;
    });
}

#[test]
fn a_server_that_loses_a_message_whose_caller_asked_to_abort_panics() {
    // Whoever asks to abort waits on: the message may not be dropped as if its caller had gone.
    let lost = std::panic::catch_unwind(|| {
        run(1, || async {
            let port = Port::new(Worker { at_once: false });
            let call = port.call(Job(Arc::default()));
            call.abort();
            drop(port.try_receive());
            drop(call);
        });
    });
    assert!(lost.is_err());
    run(1, || async {
        let port = Port::new(Worker { at_once: false });
        drop(port.call(Job(Arc::default())));
        drop(port.try_receive());
        let call = port.call(Job(Arc::default()));
        let mut pending = port.try_receive().expect("queued");
        drop(call);
        pending.aborted().await;
    });
}
