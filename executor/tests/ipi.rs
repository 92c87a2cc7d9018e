//! IPI messages: their order, their doorbells, masks, chains, and waiting for them.

mod stepped;

use executor::{
    Cpu, CpuId, CpuLocal, CpuMask, Event, Message, Port, Sent, Token, chain, critical, current,
    current_cpu, hosted, run_on, run_on_all, run_on_mask, send_passive, send_to, send_to_mask,
    sent_to, sleep, spawn_on, synchronize, timeout, yield_now,
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use stepped::Stepped;

mod later;

use later::Later;

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

/// True if `f` panics.
fn refused<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(f()))).is_err()
}

struct Ask;

impl Message for Ask {
    type Reply = ();
}

#[test]
fn trap_14_what_waits_in_a_hard_section_is_refused() {
    // It does not compile but by polling a future by hand, which is what this does.
    hosted::run(2, || async {
        let thread = spawn_on(CpuId(1), "never", std::future::pending::<()>);
        let waits = move || {
            let (token, mut thread, port) = (
                Token::new("token"),
                thread,
                Port::new(Later::<Ask>::default()),
            );
            [
                refused(|| poll_once(port.call(Ask))),
                refused(|| poll_once(&mut thread)),
                refused(|| poll_once(sleep(Duration::from_secs(1)))),
                refused(|| poll_once(Event::new().wait())),
                refused(|| poll_once(run_on(CpuId(0), |_| ()))),
                refused(|| poll_once(token.hold(async |_| ()))),
            ]
        };
        assert_eq!(run_on(CpuId(1), move |_| waits()).await, [true; 6]);
        // In a device's handler, which interrupts a thread in the middle of its poll.
        let handled = Rc::new(Cell::new(false));
        let seen = handled.clone();
        let handler = move || seen.set(refused(|| poll_once(Event::new().wait())));
        current().on_interrupt(3, Rc::new(handler));
        current().interrupt(3);
        assert!(handled.get());
        assert!(poll_once(Event::new().wait()).is_pending(), "a thread may");
    });
}

#[test]
fn trap_24_what_another_cpu_is_asked_for_is_done_later_and_synchronize_says_when() {
    hosted::run(3, || async {
        let (began, go) = (counter(), counter());
        let done = [counter(), counter(), counter()];
        let (told, wait) = (began.clone(), go.clone());
        // CPU 1 is in the middle of a poll.
        let busy = spawn_on(CpuId(1), "busy", move || async move {
            add(&told);
            let began = Instant::now();
            while get(&wait) == 0 && began.elapsed() < Duration::from_secs(10) {
                std::hint::spin_loop();
            }
        });
        while get(&began) == 0 {
            yield_now().await;
        }
        for cpu in [1, 2] {
            let done = done[usize::from(cpu)].clone();
            send_to(current().node().cpu(CpuId(cpu)), move |_| add(&done));
        }
        let passive = done[1].clone();
        send_passive(current().node().cpu(CpuId(1)), move |_| add(&passive));
        let sent = sent_to(CpuId(1));
        assert_eq!(get(&done[1]), 0, "the sends have returned, no more");
        assert!(!sent.is_done());
        let mut all = pin!(synchronize());
        assert!(poll_once(all.as_mut()).is_pending());
        add(&go);
        all.await;
        assert_eq!(done.map(|done| get(&done)), [0, 2, 1]);
        assert!(sent.is_done());
        busy.await;
    });
}

#[test]
fn who_waits_for_what_was_sent_sends_nothing_if_it_is_done() {
    hosted::run(2, || async {
        let done = counter();
        let nothing = sent_to(CpuId(1));
        assert!(nothing.is_done());
        let mut places: Vec<(u32, Sent)> = Vec::new();
        // More than a ring holds: some of them are in the backlog when their place is taken.
        for number in 1..=600 {
            let done = done.clone();
            send_to(current().node().cpu(CpuId(1)), move |_| add(&done));
            places.push((number, sent_to(CpuId(1))));
        }
        for (number, place) in places.iter().step_by(7) {
            place.wait().await;
            assert!(get(&done) >= *number);
        }
        let (_, last) = places[599];
        last.wait().await;
        assert_eq!(get(&done), 600);
        assert!(places.iter().all(|(_, place)| place.is_done()));
        let sent = current().stats().ipi_sent.get();
        for (_, place) in &places {
            place.wait().await;
        }
        sent_to(CpuId(0)).wait().await;
        assert_eq!(current().stats().ipi_sent.get(), sent);
    });
}

#[test]
fn a_place_among_the_messages_can_be_waited_for_from_another_cpu() {
    hosted::run(3, || async {
        for _ in 0..200 {
            let done = counter();
            for _ in 0..300 {
                let done = done.clone();
                send_to(current().node().cpu(CpuId(1)), move |_| add(&done));
            }
            let place = sent_to(CpuId(1));
            let seen = spawn_on(CpuId(2), "waiter", move || async move {
                place.wait().await;
                get(&done)
            });
            assert_eq!(seen.await, 300);
        }
    });
}

#[test]
fn a_mask_is_told_from_the_next_cpu_on_and_this_one_last() {
    let mut cpus = Stepped::new(4);
    let log = Arc::new(Mutex::new(Vec::new()));
    let noted = log.clone();
    let take = || std::mem::take(&mut *log.lock().expect("no panic"));
    // CPU numbers that the node has not are left out.
    let mask: CpuMask = [0, 1, 2, 3, 9, 4000].map(CpuId).into_iter().collect();
    let note = move |cpu: &Cpu| noted.lock().expect("no panic").push(cpu.id().0);
    assert_eq!(cpus.on(2, |_| send_to_mask(&mask, note)), 4);
    assert_eq!(take(), [2], "this CPU has run it");
    assert_eq!(cpus.rung(), [3, 0, 1]);
    cpus.settle();
    assert_eq!(take(), [3, 0, 1]);
}

#[test]
fn a_function_on_a_mask_has_run_everywhere_when_it_returns() {
    hosted::run(4, || async {
        let ran = counter();
        for _ in 0..500 {
            let theirs = ran.clone();
            run_on_all(move |_| add(&theirs)).await;
        }
        assert_eq!(get(&ran), 2000);
        let theirs = ran.clone();
        let some: CpuMask = [1, 3, 50].map(CpuId).into_iter().collect();
        assert_eq!(run_on_mask(&some, move |_| add(&theirs)).await, 2);
        assert_eq!(get(&ran), 2002);
        assert_eq!(run_on_mask(&CpuMask::new(), |_| panic!("nobody")).await, 0);
    });
}

#[test]
fn trap_26_a_send_to_oneself_is_done_on_return() {
    hosted::run(2, || async {
        let done = Arc::new(AtomicU32::new(0));
        let theirs = done.clone();
        let sent = current().stats().ipi_sent.get();
        send_to(current(), move |cpu| {
            assert_eq!(cpu.id(), current_cpu());
            assert!(critical::is_hard());
            theirs.store(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert_eq!(
            current().stats().ipi_sent.get(),
            sent,
            "no message was queued"
        );
    });
}

#[test]
fn traps_27_28_a_storm_over_full_rings_loses_nothing_and_keeps_order() {
    // Every CPU sends far more to each other than a ring holds, without yielding; handlers send on until the budget
    // ends. No sender waits, so no two can wait for each other.
    const EACH: u64 = 5_000;
    hosted::run(3, || async {
        type Seen = Mutex<BTreeMap<(u16, u16), Vec<u64>>>;
        let seen: Arc<Seen> = Arc::default();
        let echoes = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for from in 0..3u16 {
            let (seen, echoes) = (seen.clone(), echoes.clone());
            senders.push(spawn_on(CpuId(from), "storm", move || async move {
                for number in 0..EACH {
                    for to in (0..3).filter(|to| *to != from) {
                        let (seen, echoes) = (seen.clone(), echoes.clone());
                        send_to(current().node().cpu(CpuId(to)), move |cpu| {
                            seen.lock()
                                .expect("no panic")
                                .entry((from, to))
                                .or_default()
                                .push(number);
                            let back = cpu.node().cpu(CpuId(from));
                            send_to(back, move |_| {
                                echoes.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                }
            }));
        }
        for sender in senders {
            sender.await;
        }
        let all = EACH * 6;
        let arrive = async {
            while echoes.load(Ordering::Relaxed) < all {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), arrive)
            .await
            .expect("messages were lost");
        assert_eq!(echoes.load(Ordering::Relaxed), all);
        for (pair, numbers) in seen.lock().expect("no panic").iter() {
            assert!(
                numbers.iter().copied().eq(0..EACH),
                "{pair:?} out of order or not once"
            );
        }
        let full = current()
            .node()
            .cpus()
            .map(|cpu| cpu.stats().ipi_backlogged.get())
            .sum::<u64>();
        assert!(
            full > 0,
            "the rings were never full: the test proves nothing"
        );
    });
}

#[test]
fn trap_27_handlers_that_send_two_more_each_do_not_nest_and_come_to_an_end() {
    /// What is left to send, and how deep handlers are nested on each CPU.
    struct Storm {
        budget: AtomicU32,
        ran: AtomicU32,
        depth: [AtomicU32; 3],
    }
    fn spread(storm: &Arc<Storm>, cpu: &Cpu) {
        let depth = &storm.depth[cpu.id().index()];
        assert_eq!(
            depth.fetch_add(1, Ordering::Relaxed),
            0,
            "a handler in a handler"
        );
        storm.ran.fetch_add(1, Ordering::Relaxed);
        for step in 1..=2 {
            let left = |left: u32| left.checked_sub(1);
            if storm
                .budget
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
                .is_ok()
            {
                let to = CpuId((cpu.id().0 + step) % 3);
                let storm = storm.clone();
                send_to(cpu.node().cpu(to), move |cpu| spread(&storm, cpu));
            }
        }
        depth.fetch_sub(1, Ordering::Relaxed);
    }
    const BUDGET: u32 = 100_000;
    hosted::run(3, || async {
        let storm = Arc::new(Storm {
            budget: AtomicU32::new(BUDGET),
            ran: AtomicU32::new(0),
            depth: Default::default(),
        });
        let theirs = storm.clone();
        run_on_all(move |cpu| spread(&theirs, cpu)).await;
        let over = async {
            while get(&storm.ran) < BUDGET + 3 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), over)
            .await
            .expect("some were lost");
        synchronize().await;
        assert_eq!(get(&storm.ran), BUDGET + 3);
        let backlogs = current()
            .node()
            .cpus()
            .map(|cpu| cpu.stats().ipi_backlogged.get());
        assert!(backlogs.sum::<u64>() > 0, "the rings were never full");
    });
}

#[test]
fn busy_cpus_exchange_messages_without_a_doorbell() {
    hosted::run(2, || async {
        let stop = Arc::new(AtomicU32::new(0));
        let spins = [CpuId(0), CpuId(1)].map(|cpu| {
            let stop = stop.clone();
            spawn_on(cpu, "spinner", move || async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    yield_now().await;
                }
            })
        });
        assert_eq!(run_on(CpuId(1), |cpu| cpu.id()).await, CpuId(1));
        let rung = |node: &executor::Node| {
            node.cpus()
                .map(|cpu| cpu.stats().doorbells_rung.get())
                .sum::<u64>()
        };
        let before = rung(current().node());
        for _ in 0..1000 {
            run_on(CpuId(1), |_| ()).await;
        }
        assert_eq!(rung(current().node()), before);
        assert!(current().stats().doorbells_saved.get() >= 1000);
        stop.store(1, Ordering::Relaxed);
        for spin in spins {
            spin.await;
        }
    });
}

#[test]
fn a_chain_visits_every_cpu_in_order_and_returns_after_the_last() {
    hosted::run(4, || async {
        let visits = Arc::new(Mutex::new(Vec::new()));
        let local = Arc::new(CpuLocal::new(current().node(), |_| Cell::new(0)));
        let (log, copies) = (visits.clone(), local.clone());
        chain(move |cpu| {
            log.lock().expect("no panic").push(cpu.id().0);
            copies.with(|copy| copy.set(copy.get() + 1));
        })
        .await;
        assert_eq!(*visits.lock().expect("no panic"), [0, 1, 2, 3]);
        for cpu in 0..4 {
            let local = local.clone();
            assert_eq!(run_on(CpuId(cpu), move |_| local.with(Cell::get)).await, 1);
        }
    });
}
