//! What hard sections put off, and what may be done in one.

use executor::{
    Builder, CpuId, Priority, Token, critical, current, hosted, run_on, send_to, spawn, spawn_on,
    yield_now,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Poll, Waker},
};

const LINE: u8 = 40;

#[test]
fn trap_13_the_end_of_a_section_inside_a_hard_one_replays_nothing_and_the_outer_end_does() {
    hosted::run(1, || async {
        let ran = Arc::new(AtomicU32::new(0));
        let count = ran.clone();
        let handler = move || {
            // One that comes while the first is handled is not left until something else happens.
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                current().interrupt(LINE);
            }
        };
        current().on_interrupt(LINE, Rc::new(handler));
        let seen = ran.clone();
        send_to(current(), move |cpu| {
            critical::section(|| cpu.interrupt(LINE));
            critical::section(|| critical::section(|| ()));
            assert!(critical::is_hard());
            assert_eq!(
                seen.load(Ordering::Relaxed),
                0,
                "replayed in a hard section"
            );
        });
        assert_eq!(ran.load(Ordering::Relaxed), 2, "replayed at the outer end");
    });
}

#[test]
fn what_a_hard_section_holds_is_not_entered_again_by_one_that_comes_in_between() {
    hosted::run(1, || async {
        let token = Token::new("a test's");
        let ran = Arc::new(AtomicU32::new(0));
        let (outer, count) = (token.clone(), ran.clone());
        send_to(current(), move |_| {
            let inner = outer.clone();
            let held = outer.try_with(|_| {
                // Further up the same stack it is the holder's own.
                assert!(outer.try_with(|_| ()).is_some());
                send_to(current(), move |_| {
                    assert!(
                        inner.try_with(|_| ()).is_none(),
                        "held by whom it interrupts"
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(held.is_some());
        });
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        assert!(token.try_with(|_| ()).is_some(), "given back");
    });
}

#[test]
fn trap_17_a_kernel_thread_runs_to_its_next_await_whoever_becomes_ready() {
    hosted::run(1, || async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (ours, theirs) = (log.clone(), log.clone());
        let low = Builder::new("low").priority(Priority::IDLE);
        let low = low.spawn(async move {
            let high = Builder::new("high").priority(Priority::INTERRUPT);
            let high = high.spawn(async move { theirs.borrow_mut().push("high") });
            // Sections end, messages to oneself run, a timer interrupt comes: none of it is an await.
            critical::section(|| ());
            send_to(current(), |_| ());
            current().interrupt_timer();
            ours.borrow_mut().push("low");
            yield_now().await;
            ours.borrow_mut().push("low again");
            high.await;
        });
        low.await;
        assert_eq!(log.take(), ["low", "high", "low again"]);
    });
}

#[test]
fn trap_75_the_last_waker_of_a_thread_may_be_dropped_in_an_ipi_function() {
    hosted::run(2, || async {
        for cpu in [CpuId(0), CpuId(1)] {
            let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
            let theirs = kept.clone();
            let memory = Arc::new(());
            let held = memory.clone();
            let thread = move || async move {
                let _held = held;
                poll_fn(|context| {
                    let mut kept = theirs.lock().unwrap();
                    kept.extend([context.waker().clone(), context.waker().clone()]);
                    Poll::Ready(())
                })
                .await;
            };
            spawn_on(CpuId(0), "owner", thread).await;
            assert_eq!(Arc::strong_count(&memory), 1);
            let wakers = std::mem::take(&mut *kept.lock().unwrap());
            // Cloned, used and dropped where nothing may wait: on the owner, and elsewhere.
            run_on(cpu, move |_| {
                assert!(critical::is_hard());
                let more = wakers.clone();
                more[0].wake_by_ref();
                drop(more);
                drop(wakers);
            })
            .await;
            spawn("reuse", async {}).await;
        }
    });
}
