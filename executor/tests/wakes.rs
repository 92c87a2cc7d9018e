//! Waiting for an event, and the wakes that DragonFly's `tsleep` and `wakeup` are about (traps 33 to 35).
//!
//! What plays their part is `Event`: a latch with its waiter in it. docs/decisions/wakes.md says why there is no table of
//! sleepers by address.

use executor::{CpuId, Event, hosted, run_on, spawn, spawn_on, timeout, yield_now};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A number that any CPU adds to.
fn counter() -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(0))
}

fn get(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Polls `future` once, by hand.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn trap_33_a_signal_that_comes_before_the_wait_ends_it_at_once() {
    // DragonFly: interlock, wakeup from elsewhere, then sleep. Here the event remembers.
    hosted::run(2, || async {
        let event = Arc::new(Event::new());
        let theirs = event.clone();
        run_on(CpuId(1), move |_| theirs.signal()).await;
        assert!(poll_once(event.wait()).is_ready());
        assert!(poll_once(event.wait()).is_pending(), "once");
    });
}

#[test]
fn trap_34_a_signal_is_for_its_event_alone_and_a_wake_for_nothing_is_not_one() {
    hosted::run(2, || async {
        // Neighbours in memory: no hash of the address, so no bucket to share.
        let events = Arc::new([Event::new(), Event::new()]);
        let ended = counter();
        let polls = counter();
        let waiters = [0, 1].map(|number| {
            let (events, ended, polls) = (events.clone(), ended.clone(), polls.clone());
            spawn("waiter", async move {
                let mut wait = pin!(events[number].wait());
                let mut woken = false;
                poll_fn(|context| {
                    add(&polls);
                    // Once for nothing: it is polled again, and waits on.
                    if !std::mem::replace(&mut woken, true) {
                        context.waker().wake_by_ref();
                    }
                    wait.as_mut().poll(context)
                })
                .await;
                ended.fetch_add(1 << number, Ordering::Relaxed);
            })
        });
        let polled = async {
            while get(&polls) < 4 {
                yield_now().await;
            }
        };
        timeout(LIMIT, polled).await.expect("a wake was lost");
        assert_eq!(get(&ended), 0);
        let theirs = events.clone();
        run_on(CpuId(1), move |_| theirs[1].signal()).await;
        let [first, second] = waiters;
        timeout(LIMIT, second).await.expect("a signal was lost");
        assert_eq!(get(&ended), 2, "the other one was not lost, and not woken");
        assert!(!first.is_finished());
        assert_eq!(get(&polls), 5);
    });
}

#[test]
fn trap_35_a_condition_stored_before_a_signal_is_seen_by_who_waits() {
    // The store-buffer litmus on real CPUs: (store the condition, look for a waiter) against (register, load the
    // condition). Both conditions are relaxed: the event alone orders them. A lost wake leaves one of them waiting.
    const ROUNDS: u32 = 20_000;
    hosted::run(2, || async {
        let shared = Arc::new((Event::new(), counter(), Event::new(), counter()));
        let theirs = shared.clone();
        let echo = spawn_on(CpuId(1), "echo", move || async move {
            let (ping, ball, pong, back) = &*theirs;
            for round in 1..=ROUNDS {
                while get(ball) < round {
                    ping.wait().await;
                }
                back.store(round, Ordering::Relaxed);
                pong.signal();
            }
        });
        let play = async {
            let (ping, ball, pong, back) = &*shared;
            for round in 1..=ROUNDS {
                ball.store(round, Ordering::Relaxed);
                ping.signal();
                while get(back) < round {
                    pong.wait().await;
                }
            }
        };
        timeout(LIMIT, play).await.expect("a wake was lost");
        echo.await;
    });
}
