//! Threads: spawning, joining, waking, moving, stopping.
//!
//! Named after the traps of the DragonFly semantics list where one applies.

use executor::{
    Builder, CpuId, Event, Priority, Thread, current_cpu, hosted, now_ns, poll_ns, set_priority,
    sleep, spawn, spawn_anywhere, spawn_movable, spawn_on, timeout, yield_now,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

#[test]
fn a_joined_thread_gives_its_output_and_need_not_be_send() {
    let sum = hosted::run(1, || async {
        let shared = Rc::new(Cell::new(1));
        let other = shared.clone();
        let handle = spawn("adder", async move {
            yield_now().await;
            other.set(other.get() + 41);
            other
        });
        handle.await.get()
    });
    assert_eq!(sum, 42);
}

#[test]
fn equals_run_in_order_and_higher_priorities_first() {
    let order = hosted::run(1, || async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let make = |name: &'static str, priority: Priority| {
            let log = log.clone();
            Builder::new(name).priority(priority).spawn(async move {
                for round in 0..2 {
                    log.borrow_mut().push(format!("{name}{round}"));
                    yield_now().await;
                }
            })
        };
        let low = make("low", Priority::IDLE);
        let (a, b) = (make("a", Priority::KERNEL), make("b", Priority::KERNEL));
        let high = make("high", Priority::INTERRUPT);
        low.await;
        assert!(a.is_finished() && b.is_finished() && high.is_finished());
        log.take()
    });
    assert_eq!(
        order,
        ["high0", "high1", "a0", "b0", "a1", "b1", "low0", "low1"]
    );
}

#[test]
fn a_thread_that_wakes_itself_is_queued_once_its_poll_is_over_and_with_the_priority_that_it_then_has()
 {
    for (priority, expected) in [
        (Priority::IDLE, ["other", "itself"]),
        (Priority::KERNEL, ["other", "itself"]),
        (Priority::INTERRUPT, ["itself", "other"]),
    ] {
        let (order, polls, wakes) = hosted::run(1, move || async move {
            let log = Rc::new(RefCell::new(Vec::new()));
            let (mine, theirs) = (log.clone(), log.clone());
            let thread = spawn("itself", async move {
                let mut polls = 0;
                poll_fn(|context| {
                    polls += 1;
                    if polls == 2 {
                        return Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    let log = theirs.clone();
                    spawn("other", async move { log.borrow_mut().push("other") }).detach();
                    set_priority(priority);
                    // Queued twice, the list would end here, or run in a circle.
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                mine.borrow_mut().push("itself");
                let account = Thread::current().account();
                yield_now().await;
                account
            });
            let account = thread.await;
            while log.borrow().len() < 2 {
                yield_now().await;
            }
            (log.take(), account.polls, account.wakes)
        });
        assert_eq!(order, expected, "{priority:?}");
        assert_eq!((polls, wakes), (2, 3), "one for nothing");
    }
}

#[test]
fn trap_74_every_poll_is_on_the_owner() {
    let polls = hosted::run(3, || async {
        let wrong = Arc::new(AtomicU32::new(0));
        let mut handles = Vec::new();
        for cpu in 0..3 {
            for target in 0..3 {
                let wrong = wrong.clone();
                handles.push(spawn_on(CpuId(cpu), "outer", move || async move {
                    let inner = spawn_on(CpuId(target), "inner", move || async move {
                        let mut polls = 0u32;
                        for _ in 0..100 {
                            yield_now().await;
                            sleep(Duration::from_nanos(1)).await;
                            polls += 1;
                            if current_cpu() != CpuId(target) {
                                wrong.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        polls
                    });
                    let polls = inner.await;
                    assert_eq!(
                        current_cpu(),
                        CpuId(cpu),
                        "joining does not move the joiner"
                    );
                    polls
                }));
            }
        }
        let mut polls = 0;
        for handle in handles {
            polls += handle.await;
        }
        assert_eq!(wrong.load(Ordering::Relaxed), 0);
        polls
    });
    assert_eq!(polls, 900);
}

#[test]
fn trap_20_no_wake_is_lost_while_a_thread_moves() {
    // CPU 1 floods a thread with wakes while it bounces between CPU 0 and CPU 2, until it has moved often enough.
    // Each wake carries a number; the thread must be polled after the last one, wherever it is by then.
    const HOPS: u64 = 3_000;
    const OPEN: u64 = u64::MAX;
    #[derive(Default)]
    struct Shared {
        posted: AtomicU64,
        last: AtomicU64,
        seen: AtomicU64,
        hops: AtomicU64,
        polling: AtomicBool,
        waker: Mutex<Option<Waker>>,
    }
    hosted::run(3, || async {
        let shared = Arc::new(Shared {
            last: AtomicU64::new(OPEN),
            ..Shared::default()
        });
        let mine = shared.clone();
        let mover = spawn_movable("mover", move |mobile| async move {
            loop {
                assert!(
                    !mine.polling.swap(true, Ordering::AcqRel),
                    "polled twice at once"
                );
                let last = mine.last.load(Ordering::Acquire);
                let now = mine.posted.load(Ordering::Acquire);
                mine.seen.store(now, Ordering::Release);
                mine.polling.store(false, Ordering::Release);
                if now == last {
                    return;
                }
                let hop = mine.hops.fetch_add(1, Ordering::Relaxed);
                mobile
                    .migrate_to(CpuId(if hop.is_multiple_of(2) { 2 } else { 0 }))
                    .await;
                let mut registered = false;
                poll_fn(|context| {
                    *mine.waker.lock().expect("no panic") = Some(context.waker().clone());
                    let news = mine.posted.load(Ordering::Acquire) != now;
                    if registered || news {
                        return Poll::Ready(());
                    }
                    registered = true;
                    Poll::Pending
                })
                .await;
            }
        });
        let flood = spawn_on(CpuId(1), "flood", move || async move {
            let mut number = 0;
            loop {
                number += 1;
                let over = shared.hops.load(Ordering::Relaxed) >= HOPS;
                if over {
                    shared.last.store(number, Ordering::Release);
                }
                shared.posted.store(number, Ordering::Release);
                if let Some(waker) = shared.waker.lock().expect("no panic").as_ref() {
                    waker.wake_by_ref();
                }
                if over {
                    return;
                }
                if number % 16 == 0 {
                    yield_now().await;
                }
            }
        });
        timeout(Duration::from_secs(30), flood)
            .await
            .expect("the thread stopped moving");
        // No further wake comes: it must have seen the last one.
        timeout(Duration::from_secs(10), mover)
            .await
            .expect("the last wake was lost");
    });
}

#[test]
fn trap_22_a_wake_between_registering_and_pending_polls_once_more() {
    let polls = hosted::run(1, || async {
        let mut polls = 0;
        let handle = spawn(
            "self-waker",
            poll_fn(move |context| {
                polls += 1;
                if polls == 1 {
                    // Twice: the second must change nothing.
                    context.waker().wake_by_ref();
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if polls == 2 {
                    context.waker().wake_by_ref()
                }
                Poll::Ready(polls)
            }),
        );
        handle.await
    });
    assert_eq!(polls, 2);
}

#[test]
fn a_waker_outlives_its_thread_and_does_nothing_then() {
    hosted::run(2, || async {
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        let keep = kept.clone();
        spawn(
            "short",
            poll_fn(move |context| {
                *keep.borrow_mut() = Some(context.waker().clone());
                Poll::Ready(())
            }),
        )
        .await;
        let waker = kept.take().expect("kept");
        waker.wake_by_ref();
        spawn_on(CpuId(1), "remote", move || async move {
            waker.wake_by_ref();
            drop(waker);
        })
        .await;
        yield_now().await;
    });
}

#[test]
fn an_output_nobody_wants_is_dropped_once_on_its_cpu() {
    struct Counted(Arc<AtomicU32>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicU32::new(0));
    let inner = drops.clone();
    hosted::run(2, move || async move {
        let (one, two, three) = (inner.clone(), inner.clone(), inner.clone());
        spawn("detached first", async move { Counted(one) }).detach();
        let late = spawn_on(
            CpuId(1),
            "detached late",
            move || async move { Counted(two) },
        );
        while !late.is_finished() {
            yield_now().await;
        }
        drop(late);
        drop(spawn("joined", async move { Counted(three) }).await);
        yield_now().await;
    });
    assert_eq!(drops.load(Ordering::Relaxed), 3);
}

#[test]
fn stopping_drops_the_waiting_threads_on_their_own_cpus() {
    struct OnCpu(CpuId, Arc<AtomicU32>);
    impl Drop for OnCpu {
        fn drop(&mut self) {
            assert_eq!(current_cpu(), self.0);
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicU32::new(0));
    let inner = drops.clone();
    hosted::run(2, move || async move {
        let mut started = Vec::new();
        for cpu in [0, 1] {
            let drops = inner.clone();
            let event = Arc::new(Event::new());
            started.push(event.clone());
            spawn_on(CpuId(cpu), "waits for ever", move || async move {
                let _on_cpu = OnCpu(current_cpu(), drops);
                event.signal();
                std::future::pending::<()>().await;
            })
            .detach();
        }
        for event in started {
            event.wait().await;
        }
    });
    assert_eq!(drops.load(Ordering::Relaxed), 2);
}

#[test]
fn a_poll_reads_its_clock_once_and_the_next_one_anew() {
    hosted::run(1, || async {
        let first = poll_ns();
        while now_ns() == first {}
        assert_eq!(poll_ns(), first);
        let between = now_ns();
        yield_now().await;
        assert!(poll_ns() >= between);
    });
}

#[test]
fn sleeps_end_in_order_and_a_cancelled_one_leaves_nothing() {
    hosted::run(1, || async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut handles = Vec::new();
        for ms in [3u64, 1, 2] {
            let log = log.clone();
            handles.push(spawn("sleeper", async move {
                sleep(Duration::from_millis(ms)).await;
                log.borrow_mut().push(ms);
            }));
        }
        let before = now_ns();
        assert!(
            timeout(Duration::from_micros(100), std::future::pending::<()>())
                .await
                .is_err()
        );
        assert!(now_ns() - before >= 100_000);
        assert_eq!(timeout(Duration::from_secs(60), async { 7 }).await, Ok(7));
        for handle in handles {
            handle.await;
        }
        assert_eq!(log.take(), [1, 2, 3]);
    });
}

#[test]
fn an_event_signalled_before_the_wait_is_not_lost_and_does_not_count() {
    hosted::run(2, || async {
        let event = Arc::new(Event::new());
        event.signal();
        event.signal();
        event.wait().await;
        assert!(
            timeout(Duration::from_millis(1), event.wait())
                .await
                .is_err()
        );
        let (ping, pong) = (event, Arc::new(Event::new()));
        let (theirs, ours) = (ping.clone(), pong.clone());
        let echo = spawn_on(CpuId(1), "echo", move || async move {
            for _ in 0..2000 {
                theirs.wait().await;
                ours.signal();
            }
        });
        for _ in 0..2000 {
            ping.signal();
            pong.wait().await;
        }
        echo.await;
    });
}

#[test]
fn a_thread_is_traced_as_made_where_it_lives() {
    use executor::trace::{ClassMask, Event as Traced, Record};
    let spawned_on = hosted::run(2, || async {
        let node = executor::current().node();
        node.set_trace_mask(ClassMask::ALL);
        spawn_on(CpuId(1), "there", || async {}).await;
        spawn("here", async {}).await;
        node.set_trace_mask(ClassMask::NONE);
        [CpuId(0), CpuId(1)].map(|cpu| {
            let mut records = [Record::default(); 64];
            let (_, count) = node.cpu(cpu).trace_ring().read(0, &mut records);
            let spawns = records[..count]
                .iter()
                .filter(|record| record.event() == Some(Traced::ThreadSpawn));
            spawns.count()
        })
    });
    assert_eq!(spawned_on, [1, 1]);
}

/// Threads that may live anywhere are dealt out one after the other, whichever CPUs make them.
#[test]
fn trap_23_new_threads_take_turns_on_all_cpus() {
    const CPUS: u16 = 4;
    let homes = hosted::run(CPUS.into(), || async {
        let deal = || async {
            let mut homes = Vec::new();
            for _ in 0..2 * CPUS {
                homes.push(spawn_anywhere("anywhere", || async { current_cpu() }).await);
            }
            homes
        };
        let mut homes = spawn_on(CpuId(2), "maker", deal).await;
        homes.extend(spawn_on(CpuId(0), "maker", deal).await);
        homes
    });
    for cpu in (0..CPUS).map(CpuId) {
        assert_eq!(
            homes.iter().filter(|home| **home == cpu).count(),
            4,
            "{cpu}: {homes:?}"
        );
    }
}
