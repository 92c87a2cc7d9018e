//! Reply ports, put-only ports, receipts, and messages that are taken back.

use executor::{
    Answer, CpuId, Message, Pending, Port, PortRef, Put, PutPort, Receipt, ReplyPort, Serve,
    Server, critical, current, current_cpu, hosted, spawn, spawn_on, yield_now,
};
use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
};

mod later;
mod support;

use later::Later;
use support::{poll_once, run, until};

struct Double(u32);
impl Message for Double {
    type Reply = u32;
}

/// Doubles even numbers at once and leaves odd ones to its thread.
struct Doubler;
impl Server for Doubler {
    type Work = Pending<Double>;
}
impl Serve<Double> for Doubler {
    fn put(&self, message: Double) -> Put<Double> {
        if message.0.is_multiple_of(2) {
            Put::Done(message.0 * 2)
        } else {
            Put::Later(message)
        }
    }
    fn queue(pending: Pending<Double>) -> Pending<Double> {
        pending
    }
}

async fn doubler(cpu: u16) -> PortRef<Doubler> {
    spawn_on(CpuId(cpu), "open", || async {
        let port = Port::new(Doubler);
        let handle = port.handle();
        spawn("doubler", async move {
            loop {
                let pending = port.receive().await;
                let number = pending.message().0;
                pending.reply(number * 2);
            }
        })
        .detach();
        handle
    })
    .await
}

#[test]
fn trap_37_an_answer_at_once_lands_on_the_reply_port_too() {
    run(2, || async {
        let (near, far) = (doubler(0).await, doubler(1).await);
        yield_now().await;
        let replies = ReplyPort::for_replies();
        near.send(Double(2), &replies, "at once");
        assert_eq!(replies.queued(), 1, "it is in the queue when send returns");
        near.send(Double(3), &replies, "later");
        far.send(Double(4), &replies, "far, at once");
        far.send(Double(5), &replies, "far, later");
        let mut all = Vec::new();
        for _ in 0..4 {
            let reply = replies.receive().await;
            all.push(reply);
        }
        assert_eq!(all[0], ("at once", 4), "in the order of their coming");
        all.sort_unstable();
        let expected = [
            ("at once", 4),
            ("far, at once", 8),
            ("far, later", 10),
            ("later", 6),
        ];
        assert_eq!(all, expected);
        yield_now().await;
        executor::run_on(CpuId(1), |_| ()).await;
        assert!(replies.try_receive().is_none(), "exactly one reply each");
    });
}

#[test]
fn a_thousand_outstanding_messages_are_told_apart_by_their_keys() {
    run(3, || async {
        let ports = [doubler(0).await, doubler(1).await, doubler(2).await];
        let replies = ReplyPort::for_replies();
        let token = Arc::new(());
        for key in 0..1_000u32 {
            ports[key as usize % 3].send(Double(key), &replies, (key, token.clone()));
        }
        let mut seen = vec![false; 1_000];
        for _ in 0..1_000 {
            let reply = replies.receive().await;
            let ((key, _), doubled) = reply;
            assert_eq!(doubled, key * 2);
            assert!(
                !std::mem::replace(&mut seen[key as usize], true),
                "{key} twice"
            );
        }
        // A reply port that goes leaves its replies to nobody.
        for key in 0..100 {
            ports[key as usize % 3].send(Double(key), &replies, (key, token.clone()));
        }
        drop(replies);
        until("the last reply", || Arc::strong_count(&token) == 1).await;
    });
}

#[test]
fn what_is_sent_or_handed_on_to_a_node_that_is_gone_is_gone_too() {
    let left = hosted::run(1, || async { Port::new(Doubler).handle() });
    run(1, || async move {
        let replies = ReplyPort::for_replies();
        left.send(Double(2), &replies, ());
        let port = Port::new(Doubler);
        let call = port.call(Double(1));
        left.forward(port.try_receive().expect("queued"));
        yield_now().await;
        assert!(!call.is_done() && replies.try_receive().is_none());
    });
}

/// Answers from memory, always.
struct Clock {
    asked: Cell<u32>,
    was_hard: Cell<bool>,
}
impl Answer<Double> for Clock {
    fn put(&self, message: Double) -> u32 {
        assert!(critical::is_open());
        self.asked.set(self.asked.get() + 1);
        self.was_hard.set(critical::is_hard());
        message.0 + u32::from(current_cpu().0)
    }
}
struct Tick;
impl Message for Tick {
    type Reply = ();
}
impl Answer<Tick> for Clock {
    fn put(&self, _: Tick) {
        self.asked.set(self.asked.get() + 100);
    }
}

#[test]
fn a_put_only_port_answers_at_once_where_it_lives_and_in_the_message_from_elsewhere() {
    run(2, || async {
        let port = PutPort::new(Clock {
            asked: Cell::new(0),
            was_hard: Cell::new(false),
        });
        let handle = port.handle();
        assert_eq!(handle.cpu(), CpuId(0));
        let call = handle.call(Double(10));
        assert!(call.is_done() && !port.server().was_hard.get());
        assert_eq!(call.await, 10);
        let inside = critical::section(|| handle.call(Double(1)).is_done());
        assert!(inside, "inside a critical section, too");
        handle.post(Tick);
        assert_eq!(port.server().asked.get(), 102);
        let far = handle.clone();
        let answer = spawn_on(CpuId(1), "far", move || async move {
            far.post(Tick);
            // One that nobody waits for is answered as well.
            drop(far.call(Double(1)));
            far.call(Double(20)).await
        });
        assert_eq!(answer.await, 20);
        assert!(port.server().was_hard.get(), "in the IPI message");
        assert_eq!(port.server().asked.get(), 204);
        assert_eq!(current().stats().ports_queued.get(), 0, "no queue");
    });
}

#[test]
fn a_put_only_port_dies_on_its_own_cpu_and_its_handle_outlives_the_node() {
    struct Fragile(Rc<()>, Arc<AtomicU32>);
    impl Answer<Tick> for Fragile {
        fn put(&self, _: Tick) {}
    }
    impl Drop for Fragile {
        fn drop(&mut self) {
            assert_eq!((current_cpu(), Rc::strong_count(&self.0)), (CpuId(0), 1));
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let inner = dropped.clone();
    let left = hosted::run(2, move || async move {
        let handle = PutPort::new(Fragile(Rc::new(()), inner)).handle();
        spawn_on(CpuId(1), "last", move || async move {
            drop(handle);
            // Behind what that sends home.
            executor::run_on(CpuId(0), |_| ()).await;
        })
        .await;
        PutPort::new(Clock {
            asked: Cell::new(0),
            was_hard: Cell::new(false),
        })
        .handle()
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    left.post(Tick);
    assert!(!left.call(Double(1)).is_done(), "nobody is there to answer");
}

/// What a message with a receipt is queued at, and handed on from.
struct Dock;
struct Parcel {
    receipt: Option<Receipt>,
    at_once: bool,
    received: Arc<AtomicU32>,
}
impl Message for Parcel {
    type Reply = ();
    fn receipt(&mut self) -> Option<Receipt> {
        self.receipt.take()
    }
}
impl Server for Dock {
    type Work = Pending<Parcel>;
}
impl Serve<Parcel> for Dock {
    fn put(&self, message: Parcel) -> Put<Parcel> {
        if message.at_once {
            Put::Done(())
        } else {
            Put::Later(message)
        }
    }
    fn queue(pending: Pending<Parcel>) -> Pending<Parcel> {
        pending
    }
}

/// The same, made anew for every port: a receipt that gives itself away again.
struct Stubborn(Arc<AtomicU32>);
impl Message for Stubborn {
    type Reply = ();
    fn receipt(&mut self) -> Option<Receipt> {
        let count = self.0.clone();
        Some(Box::new(move || {
            assert!(critical::is_open());
            count.fetch_add(1, Ordering::Release);
        }))
    }
}
type Desk = Later<Stubborn>;

#[test]
fn trap_44_a_receipt_comes_after_the_link_and_before_any_reader() {
    run(1, || async {
        let port = Rc::new(Port::new(Dock));
        let received = Arc::new(AtomicU32::new(0));
        let parcel = |at_once| {
            let (port, count) = (port.clone(), received.clone());
            Parcel {
                receipt: Some(Box::new(move || {
                    assert_eq!(port.queued(), 1, "it is linked");
                    count.fetch_add(1, Ordering::Relaxed);
                })),
                at_once,
                received: received.clone(),
            }
        };
        let mut waits = port.receive();
        assert!(poll_once(&mut waits).await.is_pending());
        let call = port.call(parcel(false));
        let pending = waits.await;
        assert_eq!(pending.message().received.load(Ordering::Relaxed), 1);
        pending.reply(());
        call.await;
        port.call(parcel(true)).await;
        assert_eq!(
            received.load(Ordering::Relaxed),
            1,
            "none for an answer at once"
        );
        // Before any reader, also before one that waits: what the receipt takes, nobody was promised.
        let mut waits = port.receive();
        assert!(poll_once(&mut waits).await.is_pending());
        let early = port.clone();
        let call = port.call(Parcel {
            receipt: Some(Box::new(move || {
                let pending = early.try_receive().expect("promised already");
                pending.reply(());
            })),
            at_once: false,
            received: received.clone(),
        });
        call.await;
        assert!(poll_once(&mut waits).await.is_pending());
    });
}

#[test]
fn trap_44_a_receipt_is_given_once_also_to_far_readers_and_over_a_forward() {
    run(3, || async {
        const ROUNDS: u32 = 2_000;
        let last = Port::new(Desk::default());
        let last_handle = last.handle();
        let (first, go) = spawn_on(CpuId(1), "open", || async {
            let port = Port::new(Desk::default());
            let handle = port.handle();
            let go = Arc::new(AtomicBool::new(false));
            // It owns the port and never receives.
            let end = go.clone();
            spawn("owner", async move {
                let _port = port;
                while !end.load(Ordering::Acquire) {
                    yield_now().await;
                }
            })
            .detach();
            (handle, go)
        })
        .await;
        let reader = first.clone();
        spawn_on(CpuId(2), "reader", move || async move {
            for _ in 0..ROUNDS {
                let pending = reader.receive().await;
                assert_eq!(
                    pending.message().0.load(Ordering::Acquire),
                    1,
                    "before any reader"
                );
                last_handle.forward(pending);
            }
        })
        .detach();
        for _ in 0..ROUNDS {
            let count = Arc::new(AtomicU32::new(0));
            first.post(Stubborn(count.clone()));
            let pending = last.receive().await;
            drop(pending);
            assert_eq!(
                count.load(Ordering::Acquire),
                1,
                "not again when it is handed on"
            );
        }
        go.store(true, Ordering::Release);
    });
}

/// A timer's message: it is posted, and taken back if the timer is stopped.
struct Expired(u32);
impl Message for Expired {
    type Reply = ();
}
struct Timers;
enum TimerWork {
    Expired(Pending<Expired>),
    Double(Pending<Double>),
}
impl Server for Timers {
    type Work = TimerWork;
}
impl Serve<Expired> for Timers {
    fn put(&self, message: Expired) -> Put<Expired> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Expired>) -> TimerWork {
        TimerWork::Expired(pending)
    }
}
impl Serve<Double> for Timers {
    fn put(&self, message: Double) -> Put<Double> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Double>) -> TimerWork {
        TimerWork::Double(pending)
    }
}

#[test]
fn trap_47_a_queued_message_can_be_taken_back_and_a_received_one_cannot() {
    run(2, || async {
        let port = Port::new(Timers);
        let handle = port.handle();
        spawn_on(CpuId(1), "sender", move || async move {
            for number in 0..4 {
                handle.post(Expired(number));
            }
        })
        .await;
        until("all are queued", || port.queued() == 4).await;
        let is = |number| move |work: &TimerWork| matches!(work, TimerWork::Expired(p) if p.message().0 == number);
        assert!(port.withdraw(is(2)).is_some());
        assert!(port.withdraw(is(2)).is_none(), "once");
        let first = port.try_receive();
        assert!(first.as_ref().is_some_and(is(0)));
        assert!(port.withdraw(is(0)).is_none(), "it was received");
        assert_eq!(port.queued(), 2);
        // Also under the hands of a reader that was woken for it, which has its turn later.
        while port.try_receive().is_some() {}
        let (mut first, mut second) = (port.receive(), port.receive());
        assert!(poll_once(&mut first).await.is_pending());
        assert!(poll_once(&mut second).await.is_pending());
        port.handle().post(Expired(7));
        assert!(port.withdraw(is(7)).is_some());
        assert!(poll_once(&mut first).await.is_pending());
        port.handle().post(Expired(8));
        assert!(poll_once(&mut second).await.is_pending());
        let Poll::Ready(work) = poll_once(&mut first).await else {
            panic!("the first in the line has lost its place");
        };
        assert!(is(8)(&work));
        drop(second);
        // A message that somebody waits for is owed a reply all the same: an aborted one, for instance.
        let (keep, stop) = (port.call(Double(1)), port.call(Double(2)));
        stop.abort();
        let aborted = |work: &TimerWork| matches!(work, TimerWork::Double(p) if p.is_aborted());
        let Some(TimerWork::Double(found)) = port.withdraw(aborted) else {
            panic!("the queue was searched in vain");
        };
        found.reply(0);
        assert_eq!(stop.await, 0);
        assert!(!keep.is_done());
        drop(keep);
        drop(port.try_receive());
    });
}
