//! cpusync: who is held, what runs meanwhile, and that two masters neither meet nor hold each other up.

mod stepped;

use executor::{
    CpuId, CpuLocal, CpuMask, Event, cpusync, critical, current, current_cpu, hosted, run_on,
    send_to, sleep_until, spawn, spawn_on, yield_now,
};
use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    time::Duration,
};
use stepped::Stepped;

/// CPUs of these numbers.
fn mask<const N: usize>(cpus: [u16; N]) -> CpuMask {
    cpus.map(CpuId).into_iter().collect()
}

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

/// As [`hosted::run`], but not for ever: a CPU that is held fires no timer, so the limit is the host's.
fn run<F>(cpus: usize, build: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let (send, over) = mpsc::channel();
    let node = std::thread::spawn(move || {
        hosted::run(cpus, build);
        send.send(()).expect("the test waits");
    });
    let limit = Duration::from_secs(120);
    if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("somebody is held for ever");
    }
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_held_cpu_takes_messages_and_nothing_else() {
    let mut cpus = Stepped::new(3);
    let (ran, each, polls) = (counter(), counter(), counter());
    let (alone, theirs) = (ran.clone(), each.clone());
    let master = cpus.on(1, |_| {
        spawn("master", async move {
            let both = mask([1, 2]);
            let given = cpusync::run(
                &both,
                move |cpu| {
                    assert!(critical::is_hard());
                    add(&alone);
                    cpu.id()
                },
                move |_| add(&theirs),
            );
            assert_eq!(given.await, CpuId(1));
        })
    });
    // CPU 2 has a thread that always runs, one that sleeps, and a device.
    let (busy, late) = (polls.clone(), polls.clone());
    let interrupts = counter();
    let line = interrupts.clone();
    cpus.wake(2);
    cpus.on(2, |cpu| {
        cpu.on_interrupt(7, Rc::new(move || add(&line)));
        spawn("busy", async move {
            loop {
                add(&busy);
                yield_now().await;
            }
        })
        .detach();
        spawn("sleeper", async move {
            sleep_until(1_000).await;
            add(&late);
        })
        .detach();
    });
    (0..10).for_each(|_| _ = cpus.step(2));
    assert!(get(&polls) > 0);
    // The master asks CPU 0, which holds them; CPU 2 gets the message.
    cpus.wake(1);
    cpus.step(1);
    assert_eq!(cpus.rung(), [0]);
    while cpus.ring() || cpus.step(0) {}
    cpus.step(2);
    let before = get(&polls);
    assert_eq!(get(&ran), 0, "CPU 1 has not heard yet that all are held");
    // Whatever comes for it now waits, and it can sleep over it.
    cpus.advance_to(2_000);
    cpus.on(2, |cpu| cpu.interrupt(7));
    (0..10).for_each(|_| _ = cpus.step(2));
    assert!(!cpus.step(2), "it sleeps");
    assert_eq!(cpus.left_behind(2), None);
    assert_eq!(cpus.timer_ns(2), None, "no timer fires");
    assert_eq!((get(&polls), get(&interrupts)), (before, 0));
    let message = counter();
    let heard = message.clone();
    cpus.on(0, |cpu| {
        send_to(cpu.node().cpu(CpuId(2)), move |_| add(&heard))
    });
    cpus.ring();
    assert_eq!(get(&message), 1, "but messages are taken");
    (0..10).for_each(|_| _ = cpus.step(2));
    assert_eq!((get(&polls), get(&each)), (before, 0));
    // The master goes on; everybody is let go, and what waited comes at once.
    while !master.is_finished() {
        cpus.ring();
        cpus.step(1);
        cpus.step(0);
        // The thread that always runs keeps CPU 2 from sleeping, so it is not waited for.
        if get(&ran) == 1 {
            cpus.step(2);
        }
    }
    (0..10).for_each(|_| _ = cpus.step(2));
    assert_eq!((get(&ran), get(&each)), (1, 2));
    assert_eq!(get(&interrupts), 1);
    assert!(get(&polls) > before + 1, "the sleeper, too");
    let stats = |cpu| cpus.node.cpu(CpuId(cpu)).stats();
    assert_eq!(stats(1).cpusyncs.get(), 1);
    assert!(stats(2).held_ns.get() >= 1_000);
    assert_eq!(stats(0).held_ns.get(), 0, "it was not in the mask");
}

#[test]
fn the_masters_own_cpu_stands_still_too() {
    let mut cpus = Stepped::new(2);
    let polls = counter();
    let theirs = polls.clone();
    cpus.wake(1);
    let master = cpus.on(1, |_| {
        spawn("busy", async move {
            loop {
                add(&theirs);
                yield_now().await;
            }
        })
        .detach();
        spawn("master", async {
            cpusync::run(&mask([0]), |_| (), |_| ()).await;
        })
    });
    (0..10).for_each(|_| _ = cpus.step(1));
    // CPU 0 holds itself and CPU 1.
    cpus.ring();
    cpus.step(1);
    let before = get(&polls);
    // CPU 0 is not stepped, and so it does not answer.
    (0..10).for_each(|_| _ = cpus.step(1));
    assert_eq!(get(&polls), before);
    assert!(!master.is_finished());
    while !master.is_finished() {
        cpus.ring();
        cpus.step(0);
        cpus.step(1);
    }
    (0..10).for_each(|_| _ = cpus.step(1));
    assert!(get(&polls) > before);
}

#[test]
fn who_slept_while_held_has_its_timer_back_when_it_is_let_go() {
    let mut cpus = Stepped::new(2);
    cpus.wake(1);
    cpus.on(1, |_| {
        spawn("sleeper", sleep_until(5_000)).detach();
        spawn("busy", async {
            loop {
                yield_now().await;
            }
        })
        .detach();
    });
    cpus.step(1);
    cpus.step(1);
    assert_eq!(cpus.timer_ns(1), Some(5_000));
    cpus.wake(0);
    cpus.on(0, |_| {
        spawn("master", async {
            cpusync::run(&mask([1]), |_| (), |_| ()).await;
        })
        .detach();
    });
    // Its poll, and the message to itself after it.
    cpus.step(0);
    cpus.step(0);
    while cpus.step(1) {}
    assert_eq!(cpus.timer_ns(1), None, "it sleeps, held");
    while cpus.step(0) {}
    cpus.ring();
    cpus.step(1);
    assert_eq!(cpus.timer_ns(1), Some(5_000), "it has not slept since");
}

#[test]
fn a_cpusync_whose_master_is_dropped_still_lets_everybody_go() {
    // Dropped after each number of turns, that is in each of its states.
    for turns in 0..12 {
        let mut cpus = Stepped::new(3);
        let item = Arc::new(());
        let (held, ran, each) = (item.clone(), counter(), counter());
        let (alone, theirs) = (ran.clone(), each.clone());
        let gone = Arc::new(AtomicBool::new(false));
        let go = gone.clone();
        cpus.wake(1);
        cpus.on(1, |_| {
            spawn("master", async move {
                let all = mask([0, 1, 2]);
                let mut sync = Box::pin(cpusync::run(
                    &all,
                    move |_| drop((held, add(&alone))),
                    move |_| add(&theirs),
                ));
                let mut first = Context::from_waker(Waker::noop());
                assert!(sync.as_mut().poll(&mut first).is_pending());
                while !go.load(Ordering::Relaxed) {
                    yield_now().await;
                }
                drop(sync);
            })
            .detach();
        });
        for _ in 0..turns {
            cpus.step(1);
            cpus.ring();
            cpus.step(0);
            cpus.step(2);
        }
        gone.store(true, Ordering::Relaxed);
        cpus.settle();
        if turns > 0 {
            assert_eq!((get(&ran), get(&each)), (1, 3));
        }
        // Another one finds everybody free.
        let after = counter();
        let theirs = after.clone();
        cpus.wake(2);
        cpus.on(2, |_| {
            spawn("next", async move {
                cpusync::run(&mask([0, 1, 2]), |_| (), move |_| add(&theirs)).await;
            })
            .detach();
        });
        cpus.settle();
        assert_eq!(get(&after), 3);
        assert_eq!((get(&ran), get(&each)), (1, 3));
        assert_eq!(Arc::strong_count(&item), 1, "what they share is gone");
    }
}

#[test]
fn a_node_that_stops_in_the_middle_of_a_cpusync_drops_it() {
    for turns in 0..8 {
        let mut cpus = Stepped::new(2);
        let item = Arc::new(());
        for cpu in 0..2 {
            let (held, theirs) = (item.clone(), item.clone());
            cpus.wake(cpu);
            cpus.on(cpu, |_| {
                spawn("master", async move {
                    let all = mask([0, 1]);
                    cpusync::run(&all, move |_| drop(held), move |_| _ = &theirs).await;
                })
                .detach();
            });
        }
        for _ in 0..turns {
            cpus.step(1);
            cpus.ring();
            cpus.step(0);
        }
        drop(cpus);
        assert_eq!(Arc::strong_count(&item), 1);
    }
}

#[test]
fn many_cpusyncs_of_cpu_0_alone_do_not_nest() {
    // They wait while another one holds CPU 1, which is not stepped, and then are over as soon as they have begun.
    const MANY: u32 = 20_000;
    let mut cpus = Stepped::new(2);
    let ran = counter();
    cpus.wake(0);
    cpus.wake(1);
    cpus.on(1, |_| {
        spawn("first", cpusync_of(mask([1]), ran.clone())).detach()
    });
    cpus.step(1);
    while cpus.step(0) {}
    cpus.wake(0);
    cpus.on(0, |_| {
        for _ in 0..MANY {
            spawn("next", cpusync_of(mask([0]), ran.clone())).detach();
        }
    });
    while cpus.step(0) {}
    assert_eq!(get(&ran), 0);
    cpus.settle();
    assert_eq!(get(&ran), MANY + 1);
}

async fn cpusync_of(mask: CpuMask, ran: Arc<AtomicU32>) {
    cpusync::run(&mask, move |_| add(&ran), |_| ()).await;
}

#[test]
fn masks_of_nobody_and_of_cpus_that_are_not_there_are_no_mistake() {
    run(2, || async {
        let ran = counter();
        for mask in [mask([]), mask([9, 4095]), mask([0, 77])] {
            let each = counter();
            let (alone, theirs) = (ran.clone(), each.clone());
            cpusync::run(&mask, move |_| add(&alone), move |_| add(&theirs)).await;
            assert_eq!(get(&each), u32::from(mask.contains(CpuId(0))));
        }
        assert_eq!(get(&ran), 3);
        let each = counter();
        let theirs = each.clone();
        cpusync::quick(&mask([]), move |_| add(&theirs)).await;
        assert_eq!(get(&each), 0);
    });
}

#[test]
fn quick_runs_everywhere_and_here_last() {
    run(3, || async {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = order.clone();
        cpusync::quick(&CpuMask::all(current().node()), move |cpu| {
            seen.lock().expect("no panic").push(cpu.id().0);
        })
        .await;
        let mut order = order.lock().expect("no panic").clone();
        assert_eq!(order.pop(), Some(0));
        order.sort_unstable();
        assert_eq!(order, [1, 2]);
        assert_eq!(current().stats().held_ns.get(), 0, "nobody was held");
    });
}

/// How many cpusyncs each of two masters makes.
const ROUNDS: u32 = 50_000;

#[test]
fn trap_32_two_masters_at_each_other_neither_meet_nor_hold_each_other_up() {
    // All CPUs are held by each; noise goes in all directions meanwhile. `inside` is written by plain loads and stores,
    // so two masters at once would lose counts, and `world` by threads that must stand still.
    run(2, || async {
        let (inside, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let quiet = Arc::new(AtomicBool::new(false));
        let over = counter();
        let polls = Arc::new(CpuLocal::new(current().node(), |_| Cell::new(0u64)));
        let noise: Vec<_> = (0..2u16)
            .map(|cpu| {
                let (quiet, over, polls) = (quiet.clone(), over.clone(), polls.clone());
                spawn_on(CpuId(cpu), "noise", move || async move {
                    let heard = Arc::new(Event::new());
                    while get(&over) < 2 {
                        assert!(
                            !quiet.load(Ordering::Relaxed),
                            "a thread runs beside a master"
                        );
                        polls.with(|polls| polls.set(polls.get() + 1));
                        let event = heard.clone();
                        send_to(current().node().cpu(CpuId(1 - cpu)), move |_| {
                            event.signal()
                        });
                        heard.wait().await;
                    }
                })
            })
            .collect();
        let masters: Vec<_> = (0..2u16)
            .map(|cpu| {
                let (inside, answers) = (inside.clone(), answers.clone());
                let (quiet, over) = (quiet.clone(), over.clone());
                spawn_on(CpuId(cpu), "master", move || async move {
                    let all = CpuMask::all(current().node());
                    for _ in 0..ROUNDS {
                        let (inside, answers) = (inside.clone(), answers.clone());
                        let (quiet, end) = (quiet.clone(), quiet.clone());
                        let before = answers.clone();
                        let alone = move |_: &_| {
                            assert!(!quiet.swap(true, Ordering::Relaxed), "two masters at once");
                            inside.store(inside.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                            before.load(Ordering::Relaxed)
                        };
                        let each = move |_: &_| {
                            end.store(false, Ordering::Relaxed);
                            answers.fetch_add(1, Ordering::Relaxed);
                        };
                        let before = cpusync::run(&all, alone, each).await;
                        assert!(before.is_multiple_of(2), "the one before was not over");
                    }
                    add(&over);
                })
            })
            .collect();
        for thread in masters.into_iter().chain(noise) {
            thread.await;
        }
        let all = u64::from(2 * ROUNDS);
        assert_eq!(inside.load(Ordering::Relaxed), all);
        assert_eq!(answers.load(Ordering::Relaxed), 2 * all);
        let masters = current()
            .node()
            .cpus()
            .map(|cpu| cpu.stats().cpusyncs.get());
        assert_eq!(masters.sum::<u64>(), all);
        for cpu in 0..2 {
            let polls = polls.clone();
            let polls = run_on(CpuId(cpu), move |_| polls.with(Cell::get)).await;
            assert!(polls > 100, "there was no noise");
        }
    });
}

#[test]
fn a_cpusync_can_be_started_from_a_movable_thread_and_from_many_at_once() {
    run(4, || async {
        let ran = counter();
        let mut threads = Vec::new();
        for round in 0..40u16 {
            let ran = ran.clone();
            threads.push(executor::spawn_movable(
                "master",
                move |mobile| async move {
                    for hop in 0..4 {
                        mobile.migrate_to(CpuId((round + hop) % 4)).await;
                        let home = current_cpu();
                        let (alone, all) = (ran.clone(), CpuMask::all(current().node()));
                        let there = cpusync::run(
                            &all,
                            move |cpu| {
                                add(&alone);
                                cpu.id()
                            },
                            |_| (),
                        );
                        assert_eq!(pin!(there).await, home, "alone runs where it was asked for");
                    }
                },
            ));
        }
        for thread in threads {
            thread.await;
        }
        assert_eq!(get(&ran), 160);
    });
}

#[test]
fn a_cpusync_asked_for_on_cpu_0_waits_for_the_end_of_its_poll_as_on_any_other() {
    run(2, || async {
        for (cpu, others) in [
            (0, mask([])),
            (0, mask([0, 1])),
            (1, mask([0, 1])),
            (0, mask([0])),
        ] {
            let free = spawn_on(CpuId(cpu), "master", move || async move {
                let token = executor::Token::new("held by who asks");
                let guarded = Arc::new(executor::Guarded::new(&token, 0));
                let inside = (token.clone(), guarded.clone());
                let busy = Arc::new(AtomicBool::new(true));
                let polling = busy.clone();
                token
                    .hold(async move |_| {
                        let alone = move |_: &executor::Cpu| {
                            let (token, guarded) = inside;
                            let between_polls = !polling.load(Ordering::Relaxed);
                            between_polls
                                && token.try_with(|held| held.with(&guarded, |_| ())).is_some()
                        };
                        let mut sync = pin!(cpusync::run(&others, alone, |_| ()));
                        let first = std::future::poll_fn(|context| {
                            let first = sync.as_mut().poll(context);
                            busy.store(false, Ordering::Relaxed);
                            std::task::Poll::Ready(first)
                        });
                        assert!(first.await.is_pending(), "it ran inside the poll");
                        sync.await
                    })
                    .await
            });
            assert!(free.await, "on cpu {cpu}");
        }
    });
}
