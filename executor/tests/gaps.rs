//! What the other tests would not notice: each of these was written for a defect that was planted and survived.

use executor::{
    Cpu, CpuId, Event, Message, Node, Pending, Platform, Port, PortRef, Put, Serve, Server,
    current, current_cpu, hosted, run_on, send_to, spawn, spawn_movable, spawn_on, timeout,
    yield_now,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
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

/// A machine whose clock stands until it is set, and whose timer interrupt the test makes.
struct Manual(AtomicU64);
impl Platform for Manual {
    fn clock_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn doorbell(&self, _: CpuId) {}
    fn idle(&self, _: &Cpu) {}
    fn set_timer(&self, _: Option<u64>) {}
}

#[test]
fn a_timer_interrupt_fires_what_is_due_at_the_poll_point() {
    let clock = Arc::new(Manual(AtomicU64::new(1)));
    let node = Node::new(1, clock.clone());
    let cpu = node.cpu(CpuId(0));
    // SAFETY: this host thread alone enters it.
    unsafe { cpu.enter() };
    let sleeper = spawn("sleeper", executor::sleep_until(1000));
    while cpu.step() {}
    clock.0.store(1000, Ordering::Relaxed);
    assert!(cpu.interrupt_timer().is_none());
    assert!(!sleeper.is_finished(), "not in the interrupt");
    while cpu.step() {}
    assert!(sleeper.is_finished());
    cpu.leave();
}

/// Passes what it gets to the next port, inside its handler.
struct Link {
    next: Option<PortRef<Link>>,
    depth: Rc<Cell<(u32, u32)>>,
    handled: Rc<Cell<u32>>,
}
struct Pass;
impl Message for Pass {
    type Reply = ();
}
impl Server for Link {
    type Work = Pending<Pass>;
}
impl Serve<Pass> for Link {
    fn put(&self, _: Pass) -> Put<Pass> {
        let (depth, deepest) = self.depth.get();
        self.depth.set((depth + 1, deepest.max(depth + 1)));
        self.handled.set(self.handled.get() + 1);
        if let Some(next) = &self.next {
            next.post(Pass);
        }
        let (depth, deepest) = self.depth.get();
        self.depth.set((depth - 1, deepest));
        Put::Done(())
    }
    fn queue(pending: Pending<Pass>) -> Pending<Pass> {
        pending
    }
}

#[test]
fn handlers_nest_only_so_deep() {
    const LINKS: u32 = 40;
    hosted::run(1, || async {
        let (depth, handled) = (Rc::new(Cell::new((0, 0))), Rc::new(Cell::new(0)));
        let mut next = None;
        for _ in 0..LINKS {
            let port = Port::new(Link {
                next: next.take(),
                depth: depth.clone(),
                handled: handled.clone(),
            });
            next = Some(port.handle());
            spawn("link", async move {
                loop {
                    let served = port.receive().await.serve(port.server());
                    assert!(served.is_ok());
                }
            })
            .detach();
        }
        yield_now().await;
        next.expect("the first link").post(Pass);
        while handled.get() != LINKS {
            yield_now().await;
        }
        // The served one and eight inline ones upon it.
        assert!((2..=9).contains(&depth.get().1), "{:?}", depth.get());
    });
}
