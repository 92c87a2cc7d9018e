//! What the other tests would not notice: each of these was written for a defect that was planted and survived.

use executor::{
    CpuId, Event, current, current_cpu, hosted, run_on, send_to, spawn, spawn_movable, spawn_on,
    timeout, yield_now,
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
    time::{Duration, Instant},
};

/// A ring's slots, and as many again: what is sent after them waits in the sender's backlog.
const FLOOD: u32 = 512;

/// Holds `cpu` in one poll from the return of this until the value is 2.
async fn hold_up(cpu: CpuId, then: impl FnOnce() + Send + 'static) -> Arc<AtomicU32> {
    let stage = Arc::new(AtomicU32::new(0));
    let inner = stage.clone();
    spawn_on(cpu, "busy", move || async move {
        inner.store(1, Ordering::Release);
        while inner.load(Ordering::Acquire) != 2 {
            std::hint::spin_loop();
        }
        then();
    })
    .detach();
    while stage.load(Ordering::Acquire) == 0 {
        yield_now().await;
    }
    stage
}

#[test]
fn a_wake_that_overtakes_the_thread_it_wakes_waits_for_it() {
    hosted::run(2, || async {
        let waker: Arc<Mutex<Option<Waker>>> = Arc::default();
        let theirs = waker.clone();
        let stage = hold_up(CpuId(1), move || {
            let waker = theirs.lock().expect("no panic").take();
            waker.expect("left before it moved").wake();
        });
        let stage = stage.await;
        for _ in 0..FLOOD {
            send_to(current().node().cpu(CpuId(1)), |_| ());
        }
        // Its arrival waits in the backlog, and the wake is made where it will arrive.
        let mover = spawn_movable("mover", move |mobile| async move {
            poll_fn(|context| {
                *waker.lock().expect("no panic") = Some(context.waker().clone());
                Poll::Ready(())
            })
            .await;
            mobile.migrate_to(CpuId(1)).await;
            let listed = current().threads();
            (current_cpu(), listed.iter().any(|t| t.name == "mover"))
        });
        while current().threads().iter().any(|t| t.name == "mover") {
            yield_now().await;
        }
        stage.store(2, Ordering::Release);
        assert_eq!(
            mover.await,
            (CpuId(1), true),
            "polled before it had arrived"
        );
    });
}

#[test]
fn a_thread_that_ends_while_queued_leaves_the_others_in_their_order() {
    hosted::run(1, || async {
        let log: Rc<RefCell<Vec<u32>>> = Rc::default();
        spawn(
            "wakes itself and ends",
            poll_fn(|context| {
                context.waker().wake_by_ref();
                Poll::Ready(())
            }),
        )
        .detach();
        let others: Vec<_> = (0..5)
            .map(|number| {
                let log = log.clone();
                spawn("other", async move { log.borrow_mut().push(number) })
            })
            .collect();
        for other in others {
            other.await;
        }
        assert_eq!(log.take(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_sender_that_is_never_idle_still_sends_its_backlog() {
    hosted::run(2, || async {
        let seen = Arc::new(AtomicU32::new(0));
        let stage = hold_up(CpuId(1), || ()).await;
        for _ in 0..FLOOD {
            let seen = seen.clone();
            send_to(current().node().cpu(CpuId(1)), move |_| {
                seen.fetch_add(1, Ordering::AcqRel);
            });
        }
        assert!(current().stats().ipi_backlogged.get() > 0);
        stage.store(2, Ordering::Release);
        let began = Instant::now();
        while seen.load(Ordering::Acquire) != FLOOD {
            assert!(began.elapsed() < Duration::from_secs(10), "never sent");
            yield_now().await;
        }
        run_on(CpuId(1), |_| ()).await;
    });
}

#[test]
fn a_sender_that_sleeps_over_a_backlog_is_told_when_there_is_room() {
    hosted::run(2, || async {
        let node = current().node();
        let halts = || current().node().cpu(CpuId(0)).stats().halts.get();
        let began = halts();
        let stage = hold_up(CpuId(1), move || {
            // Until the sender sleeps, so that it has nothing but its wish to wake it.
            while halts() == began {
                std::hint::spin_loop();
            }
        });
        let stage = stage.await;
        let last = Arc::new(Event::new());
        for number in 1..=FLOOD {
            let last = last.clone();
            send_to(node.cpu(CpuId(1)), move |_| {
                if number == FLOOD {
                    last.signal();
                }
            });
        }
        stage.store(2, Ordering::Release);
        let told = timeout(Duration::from_secs(10), last.wait()).await;
        assert!(told.is_ok(), "the backlog was left");
    });
}

#[test]
fn a_cancelled_timer_never_fires() {
    hosted::run(2, || async {
        let fired = || current().stats().timers_fired.get();
        let ready = timeout(Duration::from_millis(200), yield_now()).await;
        assert!(ready.is_ok());
        // Left on this CPU by a thread that moves.
        spawn_movable("mover", |mobile| async move {
            let mut sleep = executor::sleep(Duration::from_millis(200));
            let _ = poll_fn(|context| Poll::Ready(std::pin::pin!(&mut sleep).poll(context))).await;
            mobile.migrate_to(CpuId(1)).await;
            drop(sleep);
        })
        .await;
        executor::sleep(Duration::from_millis(250)).await;
        assert_eq!(fired(), 1, "the last sleep's own");
    });
}
