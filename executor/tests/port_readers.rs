//! Ports with many readers, of this CPU and of others, and ports with a bound.

use executor::{
    CpuId, Full, JoinHandle, Message, Pending, Port, PortRef, Put, Receive, Serve, Server, current,
    current_cpu, run_on, spawn, spawn_movable, spawn_on, yield_now,
};
use std::{
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
};

mod support;

use support::{poll_once, run, until};

struct Item(u32);
impl Message for Item {
    type Reply = ();
}
/// Overtakes items.
struct Rush(u32);
impl Message for Rush {
    type Reply = ();
    const PRIORITY: bool = true;
}

/// Answers nothing at once.
struct Belt;
impl Server for Belt {
    type Work = Work;
}
enum Work {
    Item(Pending<Item>),
    Rush(Pending<Rush>),
}
impl Work {
    /// Answers, and gives the number.
    fn take(self) -> u32 {
        match self {
            Self::Item(pending) => {
                let number = pending.message().0;
                pending.reply(());
                number
            }
            Self::Rush(pending) => {
                let number = pending.message().0;
                pending.reply(());
                number
            }
        }
    }
}
impl Serve<Item> for Belt {
    fn put(&self, message: Item) -> Put<Item> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Item>) -> Work {
        Work::Item(pending)
    }
}
impl Serve<Rush> for Belt {
    fn put(&self, message: Rush) -> Put<Rush> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Rush>) -> Work {
        Work::Rush(pending)
    }
}

async fn is_waiting(receive: &mut Receive<'_, Work>) -> bool {
    poll_once(receive).await.is_pending()
}

/// All that has been received, by whom.
type Log = Arc<Mutex<Vec<(u16, u32)>>>;

fn log(log: &Log, reader: u16, number: u32) {
    log.lock().expect("not poisoned").push((reader, number));
}

#[test]
fn trap_48_readers_of_all_cpus_receive_each_message_once() {
    const EACH: u32 = 3_000;
    let received: Log = Arc::default();
    let theirs = received.clone();
    run(3, || async move {
        let port = Rc::new(Port::new(Belt));
        for reader in 0..2 {
            let (port, log_to) = (port.clone(), theirs.clone());
            spawn("near reader", async move {
                loop {
                    log(&log_to, reader, port.receive().await.take());
                }
            })
            .detach();
        }
        for cpu in 1..3 {
            let (port, log_to) = (port.handle(), theirs.clone());
            spawn_on(CpuId(cpu), "far reader", move || async move {
                let mut turn = 0u32;
                loop {
                    // Now and then it goes away while it waits, or just as a message comes.
                    turn += 1;
                    let mut receive = pin!(port.receive());
                    let mut got = poll_once(&mut receive).await;
                    for _ in 0..turn % 5 {
                        if got.is_pending() {
                            yield_now().await;
                            got = poll_once(&mut receive).await;
                        }
                    }
                    match got {
                        Poll::Ready(work) => log(&log_to, 10 + cpu, work.take()),
                        Poll::Pending if turn.is_multiple_of(3) => {}
                        Poll::Pending => log(&log_to, 10 + cpu, receive.await.take()),
                    }
                }
            })
            .detach();
        }
        let senders: Vec<_> = (0..3)
            .map(|cpu| {
                let port = port.handle();
                spawn_on(CpuId(cpu), "sender", move || async move {
                    for number in 0..EACH {
                        let number = u32::from(cpu) * EACH + number;
                        if number.is_multiple_of(8) {
                            port.call(Rush(number)).await;
                        } else if number.is_multiple_of(3) {
                            port.call(Item(number)).await;
                        } else {
                            port.post(Item(number));
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await;
        }
        until("the last message", || {
            theirs.lock().expect("not poisoned").len() as u32 >= 3 * EACH
        })
        .await;
    });
    let log = received.lock().expect("not poisoned");
    let mut numbers: Vec<_> = log.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..3 * EACH), "each message once");
    for reader in [0, 1, 11, 12] {
        assert!(log.iter().any(|(by, _)| *by == reader), "{reader} had none");
    }
}

#[test]
fn readers_are_served_in_the_order_of_their_waiting() {
    let received: Log = Arc::default();
    let theirs = received.clone();
    run(2, || async move {
        let port = Rc::new(Port::new(Belt));
        for reader in 0..3 {
            let (port, log_to) = (port.clone(), theirs.clone());
            spawn("reader", async move {
                loop {
                    log(&log_to, reader, port.receive().await.take());
                }
            })
            .detach();
        }
        yield_now().await;
        let (far, log_to) = (port.handle(), theirs.clone());
        let waits = Arc::new(AtomicBool::new(false));
        let told = waits.clone();
        spawn_on(CpuId(1), "far reader", move || async move {
            loop {
                let mut receive = pin!(far.receive());
                let got = poll_once(&mut receive).await;
                assert!(got.is_pending());
                // Behind its request: that has come when this is answered.
                run_on(CpuId(0), |_| ()).await;
                told.store(true, Ordering::Release);
                log(&log_to, 9, receive.await.take());
            }
        })
        .detach();
        for number in 0..12 {
            // The one that was served last waits again before the next message comes.
            until("the far reader waits", || waits.load(Ordering::Acquire)).await;
            if number % 4 == 3 {
                waits.store(false, Ordering::Release);
            }
            port.handle().post(Item(number));
            until("it is received", || {
                theirs.lock().expect("not poisoned").len() as u32 > number
            })
            .await;
            yield_now().await;
        }
    });
    let readers: Vec<_> = received
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|(reader, _)| *reader)
        .collect();
    assert_eq!(readers, [0, 1, 2, 9, 0, 1, 2, 9, 0, 1, 2, 9]);
}

#[test]
fn a_reader_that_goes_away_with_a_promise_passes_it_on() {
    run(1, || async {
        let port = Port::new(Belt);
        let (mut first, mut second) = (port.receive(), port.receive());
        assert!(is_waiting(&mut first).await && is_waiting(&mut second).await);
        port.handle().post(Item(1));
        assert!(port.try_receive().is_none(), "it is promised to the first");
        assert!(is_waiting(&mut second).await, "and not to the second");
        assert_eq!(port.queued(), 1, "and linked until it is received");
        drop(first);
        assert_eq!(second.await.take(), 1);
        // Without a second one it is anybody's.
        let mut last = port.receive();
        assert!(is_waiting(&mut last).await);
        port.handle().post(Item(2));
        drop(last);
        assert_eq!(port.try_receive().map(Work::take), Some(2));
        // One that goes away while it waits leaves no trace.
        let mut idle = port.receive();
        assert!(is_waiting(&mut idle).await);
        drop(idle);
        port.handle().post(Item(3));
        assert_eq!(port.try_receive().map(Work::take), Some(3));
    });
}

/// A reader of CPU 1 that waits in the line of `port`, and goes away when it is told to, whatever it was given by then.
struct FarReader {
    leave: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl FarReader {
    async fn new(port: &Port<Belt>) -> Self {
        let far = port.handle();
        let (waits, leave) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (told, may) = (waits.clone(), Arc::<AtomicBool>::clone(&leave));
        let thread = spawn_on(CpuId(1), "far", move || async move {
            let mut receive = Box::pin(far.receive());
            assert!(poll_once(&mut receive).await.is_pending());
            // Behind its request: that has come when this is answered.
            run_on(CpuId(0), |_| ()).await;
            told.store(true, Ordering::Release);
            until("leave to go", || may.load(Ordering::Acquire)).await;
        });
        until("it waits", || waits.load(Ordering::Acquire)).await;
        Self { leave, thread }
    }

    async fn go_away(self) {
        self.leave.store(true, Ordering::Release);
        self.thread.await;
    }
}

#[test]
fn a_message_that_was_handed_to_a_far_reader_comes_back_when_that_has_gone() {
    run(2, || async {
        let port = Port::bounded(Belt, 3);
        for urgent in [false, true] {
            let far = FarReader::new(&port).await;
            if urgent {
                port.handle().post(Rush(1));
            } else {
                port.handle().post(Item(1));
            }
            assert_eq!(port.queued(), 0, "it is over there");
            port.handle().post(Item(2));
            port.handle().post(Rush(3));
            far.go_away().await;
            until("it comes back", || port.queued() == 3).await;
            assert!(
                port.handle().try_post(Item(9)).is_err(),
                "it has its room again"
            );
            let order: Vec<_> = std::iter::from_fn(|| port.try_receive().map(Work::take)).collect();
            assert_eq!(
                order,
                if urgent { [1, 3, 2] } else { [3, 1, 2] },
                "before its like"
            );
        }
    });
}

#[test]
fn a_message_that_comes_back_goes_to_who_waits() {
    run(2, || async {
        let port = Port::new(Belt);
        let far = FarReader::new(&port).await;
        port.handle().post(Item(1));
        let mut near = port.receive();
        assert!(is_waiting(&mut near).await);
        far.go_away().await;
        assert_eq!(near.await.take(), 1);
    });
}

#[test]
fn a_reader_may_move_while_it_waits() {
    run(3, || async {
        let port = Port::new(Belt);
        let far = port.handle();
        let moved = Arc::new(AtomicBool::new(false));
        let told = moved.clone();
        let reader = spawn_movable("mover", |mobile| async move {
            let mut receive = pin!(far.receive());
            assert!(poll_once(&mut receive).await.is_pending());
            mobile.migrate_to(CpuId(2)).await;
            assert!(poll_once(&mut receive).await.is_pending());
            told.store(true, Ordering::Release);
            let number = receive.await.take();
            assert_eq!(current_cpu(), CpuId(2));
            number
        });
        until("it has moved", || moved.load(Ordering::Acquire)).await;
        port.handle().post(Item(5));
        let number = reader.await;
        assert_eq!(number, 5);
    });
}

#[test]
fn a_reader_that_is_polled_by_another_thread_is_woken_there() {
    run(1, || async {
        let port = Rc::new(Port::new(Belt));
        let handle = port.handle();
        let mut first = Box::pin(async move { port.receive().await.take() });
        assert!(poll_once(&mut first).await.is_pending());
        let taker = spawn("taker", first);
        yield_now().await;
        handle.post(Item(7));
        assert_eq!(taker.await, 7);
    });
}

#[test]
fn what_is_withdrawn_right_behind_the_urgent_is_not_counted_as_one_of_them() {
    run(1, || async {
        let port = Port::new(Belt);
        let handle = port.handle();
        handle.post(Rush(1));
        handle.post(Item(2));
        handle.post(Item(3));
        let is_second =
            |work: &Work| matches!(work, Work::Item(pending) if pending.message().0 == 2);
        assert!(port.withdraw(is_second).is_some());
        handle.post(Rush(4));
        let received: Vec<_> = std::iter::from_fn(|| port.try_receive().map(Work::take)).collect();
        assert_eq!(received, [1, 4, 3]);
    });
}

#[test]
fn a_message_that_comes_back_to_a_full_port_lets_nobody_in_too_early() {
    run(2, || async {
        let port = Port::bounded(Belt, 1);
        let handle = port.handle();
        let far = FarReader::new(&port).await;
        handle.post(Item(1));
        assert_eq!(port.queued(), 0, "the reader has it");
        handle.post(Item(2));
        let mut third = handle.post_in_turn(Item(3));
        assert!(poll_once(&mut third).await.is_pending());
        far.go_away().await;
        until("the message that comes back", || port.queued() == 3).await;
        assert_eq!(port.try_receive().map(Work::take), Some(1));
        let waits = poll_once(&mut third).await.is_pending();
        assert!(waits, "the second has the place");
        assert_eq!(port.try_receive().map(Work::take), Some(2));
        assert!(poll_once(&mut third).await.is_ready());
    });
}

#[test]
fn far_readers_that_go_away_leave_no_trace() {
    run(2, || async {
        let port = Port::new(Belt);
        let far = port.handle();
        spawn_on(CpuId(1), "fickle", move || async move {
            for _ in 0..1_000 {
                let mut receive = Box::pin(far.receive());
                assert!(poll_once(&mut receive).await.is_pending());
            }
        })
        .await;
        until("they are forgotten", || {
            format!("{port:?}").contains("readers: 0")
        })
        .await;
    });
}

/// A full port of CPU 0 for two messages.
fn full() -> (Port<Belt>, PortRef<Belt>) {
    let port = Port::bounded(Belt, 2);
    let handle = port.handle();
    assert_eq!(handle.try_post(Item(1)), Ok(()));
    assert!(handle.try_call(Rush(0)).is_ok_and(|call| !call.is_done()));
    (port, handle)
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Item({})", self.0)
    }
}

#[test]
fn a_full_port_gives_a_message_back_at_once_on_every_cpu() {
    run(2, || async {
        let (port, handle) = full();
        assert_eq!(handle.try_post(Item(7)), Err(Full(Item(7))));
        assert_eq!(handle.try_call(Item(8)).err(), Some(Full(Item(8))));
        assert_eq!(current().stats().ports_full.get(), 2);
        let far = handle.clone();
        spawn_on(CpuId(1), "far", move || async move {
            assert_eq!(far.try_post(Item(7)), Err(Full(Item(7))));
            assert_eq!(far.try_call(Item(8)).err(), Some(Full(Item(8))));
            assert_eq!(current().stats().ports_full.get(), 2);
        })
        .await;
        assert_eq!(port.queued(), 2, "nothing has travelled");
        assert_eq!(port.try_receive().map(Work::take), Some(0));
        assert_eq!(handle.try_post(Item(9)), Ok(()), "room again");
        assert_eq!(handle.try_post(Item(10)), Err(Full(Item(10))));
        assert_eq!(port.withdraw(|_| true).map(Work::take), Some(1));
        assert_eq!(
            handle.try_post(Item(11)),
            Ok(()),
            "a withdrawn message makes room"
        );
        // A port without a bound is never full.
        let free = Port::new(Belt);
        for number in 0..1_000 {
            assert_eq!(free.handle().try_post(Item(number)), Ok(()));
        }
    });
}

#[test]
fn callers_and_posters_of_a_full_port_wait_in_turn() {
    run(2, || async {
        let (port, handle) = full();
        let (second, third) = (handle.post_in_turn(Item(2)), handle.post_in_turn(Item(3)));
        // A caller waits among them, and a poster of the other CPU behind.
        let call = handle.call(Item(4));
        let far = handle.clone();
        let let_in = Arc::new(AtomicBool::new(false));
        let told = let_in.clone();
        spawn_on(CpuId(1), "far", move || async move {
            far.post_in_turn(Item(5)).await;
            told.store(true, Ordering::Release);
        })
        .detach();
        until("all are linked", || port.queued() == 6).await;
        assert_eq!(current().stats().ports_full.get(), 3);
        let state = || {
            let far = let_in.load(Ordering::Acquire);
            (second.is_done(), third.is_done(), call.is_done(), far)
        };
        assert_eq!(state(), (false, false, false, false));
        assert_eq!(port.receive().await.take(), 0, "in the order of sending");
        assert_eq!(state(), (true, false, false, false));
        assert_eq!(
            handle.try_post(Item(9)),
            Err(Full(Item(9))),
            "not before those who wait"
        );
        assert_eq!(port.receive().await.take(), 1);
        assert_eq!(state(), (true, true, false, false));
        assert_eq!(port.receive().await.take(), 2);
        assert_eq!(
            state(),
            (true, true, false, false),
            "the caller has its place"
        );
        assert_eq!(port.receive().await.take(), 3);
        until("the far one is let in", || let_in.load(Ordering::Acquire)).await;
        assert_eq!(port.receive().await.take(), 4);
        assert!(call.is_done());
        assert_eq!(port.receive().await.take(), 5);
        assert_eq!(handle.try_post(Item(6)), Ok(()));
        assert!(handle.post_in_turn(Item(7)).is_done());
        assert_eq!(
            handle.try_post(Item(8)),
            Err(Full(Item(8))),
            "as much room as before"
        );
    });
}

#[test]
fn a_bounded_port_keeps_its_bound_and_its_messages_under_load() {
    const EACH: u32 = 4_000;
    run(3, || async {
        let port = Port::bounded(Belt, 3);
        let refused = Arc::new(AtomicU32::new(0));
        let senders: Vec<_> = (0..3)
            .map(|cpu| {
                let (port, refused) = (port.handle(), refused.clone());
                spawn_on(CpuId(cpu), "sender", move || async move {
                    for number in 0..EACH {
                        let number = u32::from(cpu) << 16 | number;
                        match number % 3 {
                            0 => port.post_in_turn(Item(number)).await,
                            1 => port.call(Item(number)).await,
                            _ => {
                                let mut item = Item(number);
                                while let Err(Full(back)) = port.try_post(item) {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                    yield_now().await;
                                    item = back;
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        for _ in 0..3 * EACH {
            // At most one message of each sender waits beyond the bound.
            assert!(port.queued() <= 3 + 3, "{} are queued", port.queued());
            let work = port.receive().await;
            let number = work.take();
            let sender = &mut next[(number >> 16) as usize];
            assert_eq!(number & 0xffff, *sender, "each sender in order");
            *sender += 1;
        }
        for sender in senders {
            sender.await;
        }
        assert!(
            refused.load(Ordering::Relaxed) > 0,
            "the bound was never reached"
        );
    });
}
