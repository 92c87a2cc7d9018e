//! Tokens, critical sections, interrupts: who may run when.

use executor::{
    CpuId, Guarded, Token, critical, current, hold_all, hosted, sleep, spawn, spawn_on, timeout,
    yield_now,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

#[test]
fn trap_1_a_token_is_given_back_at_every_await_and_held_again_after_it() {
    for cpus in [1, 2] {
        hosted::run(cpus, move || async move {
            let token = Token::new("x");
            let generation = Arc::new(Guarded::new(&token, 0u32));
            let (theirs, guarded) = (token.clone(), generation.clone());
            let other = CpuId(cpus as u16 - 1);
            let waits = Arc::new(AtomicU32::new(0));
            let told = waits.clone();
            token
                .hold(async |held| {
                    let before = held.with(&generation, |g| *g);
                    let thread = spawn_on(other, "second", move || async move {
                        theirs
                            .hold(async |held| held.with(&guarded, |g| *g += 1))
                            .await;
                        told.store(1, Ordering::Release);
                    });
                    while waits.load(Ordering::Acquire) == 0 {
                        sleep(Duration::from_micros(20)).await;
                    }
                    thread.await;
                    assert!(token.is_held());
                    assert_eq!(held.with(&generation, |g| *g), before + 1);
                })
                .await;
            assert!(!token.is_held());
        });
    }
}

#[test]
fn trap_2_opposite_orders_never_deadlock() {
    const ROUNDS: u32 = 20_000;
    let total = hosted::run(2, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        let both = Arc::new((Guarded::new(&x, 0u32), Guarded::new(&y, 0u32)));
        let thread = |cpu: u16, first: Token, second: Token| {
            let both = both.clone();
            spawn_on(CpuId(cpu), "xy", move || async move {
                for _ in 0..ROUNDS {
                    first
                        .hold(async |a| {
                            yield_now().await;
                            second
                                .hold(async |b| {
                                    let (hx, hy) = if cpu == 0 { (&a, &b) } else { (&b, &a) };
                                    let seen = hx.with(&both.0, |x| {
                                        *x += 1;
                                        *x
                                    });
                                    hy.with(&both.1, |y| {
                                        *y += 1;
                                        assert_eq!(*y, seen)
                                    });
                                })
                                .await;
                        })
                        .await;
                }
            })
        };
        let (a, b) = (thread(0, x.clone(), y.clone()), thread(1, y, x));
        timeout(Duration::from_secs(60), async {
            a.await;
            b.await
        })
        .await
        .expect("deadlock");
        let both = Arc::into_inner(both);
        both.map(|(mut x, mut y)| (*x.get_mut(), *y.get_mut()))
    });
    assert_eq!(total, Some((2 * ROUNDS, 2 * ROUNDS)));
}

#[test]
fn hold_all_takes_all_or_none() {
    hosted::run(2, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        let data = Arc::new((Guarded::new(&x, 1u32), Guarded::new(&y, 2u32)));
        let (tx, ty, theirs) = (x.clone(), y.clone(), data.clone());
        let other = spawn_on(CpuId(1), "other", move || async move {
            for _ in 0..5000 {
                hold_all([&ty, &tx], async |held| {
                    held.with(&theirs.0, |x| {
                        held.with(&theirs.1, |y| std::mem::swap(x, y))
                    });
                })
                .await;
            }
        });
        for _ in 0..5000 {
            hold_all([&x, &y], async |held| {
                let sum = held.with(&data.0, |x| held.with(&data.1, |y| *x + *y));
                assert_eq!(sum, 3);
            })
            .await;
        }
        other.await;
    });
}

#[test]
fn trap_4_a_blocked_cpu_goes_on_soon_after_the_release() {
    // CPU 1 holds the token in one long poll; CPU 0 has nothing but a thread that wants it. It must get it without
    // any timer, whether it still tries or sleeps by then.
    hosted::run(2, || async {
        let token = Token::new("long");
        for hold_us in [0u64, 50, 500, 20_000] {
            let theirs = token.clone();
            let ready = Arc::new(AtomicU32::new(0));
            let started = ready.clone();
            let holder = spawn_on(CpuId(1), "holder", move || async move {
                theirs
                    .hold(async |_| {
                        started.store(1, Ordering::Release);
                        std::thread::sleep(Duration::from_micros(hold_us));
                    })
                    .await;
            });
            while ready.load(Ordering::Acquire) == 0 {
                yield_now().await;
            }
            // No time-out here: a timer would wake the CPU and hide a lost wake.
            token.hold(async |_| ()).await;
            holder.await;
        }
    });
}

#[test]
fn trap_8_a_dropped_future_holds_nothing() {
    hosted::run(2, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        for steps in 0..6 {
            let mut polls = 0;
            let mut scope = Box::pin(x.hold(async |_| {
                yield_now().await;
                y.hold(async |_| {
                    yield_now().await;
                    yield_now().await;
                })
                .await;
            }));
            poll_fn(|context| {
                if polls == steps || scope.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                polls += 1;
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            drop(scope);
            assert!(
                !x.is_held() && !y.is_held(),
                "cancelled after {steps} polls"
            );
        }
    });
}

use std::future::Future;

#[test]
fn trap_5_a_token_may_be_taken_again_inside_its_scope_but_not_its_data() {
    hosted::run(1, || async {
        let token = Token::new("again");
        let guarded = Guarded::new(&token, 5);
        token
            .hold(async |outer| {
                token
                    .hold(async |inner| inner.with(&guarded, |v| *v += 1))
                    .await;
                assert!(
                    token.is_held(),
                    "the inner scope gave back what it did not take"
                );
                outer.with(&guarded, |v| assert_eq!(*v, 6));
            })
            .await;
    });
}

#[test]
#[should_panic(expected = "a CPU's thread has panicked")]
fn using_guarded_data_twice_at_once_panics() {
    hosted::run(1, || async {
        let token = Token::new("twice");
        let guarded = Guarded::new(&token, 5);
        token
            .hold(async |held| held.with(&guarded, |_| held.with(&guarded, |_| ())))
            .await;
    });
}

/// Registers a handler on line 40 that writes into the log, on the current CPU.
fn log_interrupts(log: &Rc<RefCell<Vec<&'static str>>>) {
    let log = log.clone();
    current().on_interrupt(
        40,
        Rc::new(move || {
            assert!(critical::is_hard() && critical::is_open());
            log.borrow_mut().push("device");
        }),
    );
}

#[test]
fn an_interrupt_outside_of_sections_is_handled_at_once_and_inside_at_the_outermost_end() {
    hosted::run(1, || async {
        let log = Rc::default();
        log_interrupts(&log);
        current().interrupt(40);
        assert_eq!(log.take(), ["device"]);
        let outer = critical::enter();
        let inner = critical::enter();
        current().interrupt(40);
        current().interrupt(40);
        drop(inner);
        assert!(log.borrow().is_empty(), "a nested end runs nothing");
        drop(outer);
        assert_eq!(log.take(), ["device"], "a line that came twice is one line");
        current().interrupt(41);
        assert_eq!(current().stats().stray_interrupts.get(), 1);
    });
}

#[test]
fn trap_11_a_critical_section_sleeps_with_its_thread() {
    hosted::run(1, || async {
        let log = Rc::default();
        log_interrupts(&log);
        let section = critical::enter();
        let theirs = log.clone();
        let other = spawn("interrupted", async move {
            assert!(
                !critical::is_open(),
                "another thread's section is not in force here"
            );
            current().interrupt(40);
            theirs.borrow_mut().push("other");
        });
        other.await;
        assert_eq!(log.take(), ["device", "other"]);
        assert!(critical::is_open(), "the section is back with its thread");
        current().interrupt(40);
        assert!(log.borrow().is_empty());
        drop(section);
        assert_eq!(log.take(), ["device"]);
    });
}

#[test]
fn trap_12_deferred_work_runs_in_the_order_ipi_timer_device() {
    hosted::run(2, || async {
        let log: Rc<RefCell<Vec<&'static str>>> = Rc::default();
        log_interrupts(&log);
        // A thread for each source, each writing as it is woken; the device writes in its handler.
        let (by_ipi, by_timer) = (log.clone(), log.clone());
        let ipi = Arc::new(executor::Event::new());
        let told = ipi.clone();
        let first = spawn("ipi", async move {
            told.wait().await;
            by_ipi.borrow_mut().push("ipi");
        });
        let second = spawn("timer", async move {
            sleep(Duration::from_micros(200)).await;
            by_timer.borrow_mut().push("timer");
        });
        yield_now().await;
        let section = critical::enter();
        current().interrupt(40);
        current().interrupt_timer();
        let sent = Arc::new(AtomicU32::new(0));
        let flag = sent.clone();
        spawn_on(CpuId(1), "sender", move || async move {
            ipi.signal();
            flag.store(1, Ordering::Release);
        })
        .detach();
        while sent.load(Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(1));
        assert!(log.borrow().is_empty(), "nothing runs inside the section");
        drop(section);
        assert_eq!(
            *log.borrow(),
            ["device"],
            "a device is acknowledged at the section's end"
        );
        first.await;
        second.await;
        assert_eq!(
            log.take(),
            ["device", "ipi", "timer"],
            "the rest at the poll point, in order"
        );
    });
}

#[test]
fn the_watchdog_names_a_poll_that_overruns_once() {
    hosted::run(1, || async {
        current().node().set_watchdog_ns(2_000_000);
        yield_now().await;
        sleep(Duration::from_micros(10)).await;
        let seen = Cell::new(0);
        assert!(
            current().interrupt_timer().is_none(),
            "not over its budget yet"
        );
        std::thread::sleep(Duration::from_millis(6));
        if let Some(overrun) = current().interrupt_timer() {
            assert_eq!(overrun.name, "main");
            assert!(overrun.ran_ns >= 2_000_000, "{overrun:?}");
            seen.set(1);
        }
        assert_eq!(seen.get(), 1);
        assert!(current().interrupt_timer().is_none(), "reported once");
        assert_eq!(current().stats().overruns.get(), 1);
    });
}
