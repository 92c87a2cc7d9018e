//! What safe code could do wrong with a node: call what is the owner's from elsewhere, nest its loop, keep things
//! longer than the node lives, stop it with messages on their way.
//!
//! Each of these must be harmless or a panic that says so. Worth a run under the address sanitizer, which sees the use
//! of a dropped node that a plain run survives.

use executor::{
    Cpu, CpuId, Event, JoinHandle, Message, Mobile, Node, Pending, Platform, Port, PortRef, Put,
    ReplyPort, Serve, Server, Sleep, Token, chain, critical, current, hold_all, hosted, run_on,
    send_to, sleep, sleep_until, spawn, spawn_movable, spawn_on, timeout, try_current, yield_now,
};
use std::{
    cell::Cell,
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

mod later;

use later::Later;

fn start(cpus: usize) -> hosted::Hosted {
    hosted::Hosted::start(hosted::Options {
        cpus,
        ..hosted::Options::default()
    })
}

/// True if `f` panics.
fn refused<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(f()))).is_err()
}

#[test]
fn what_is_the_owners_is_refused_to_everybody_else() {
    type Use = fn(&Cpu);
    let uses: [(&str, Use); 13] = [
        ("threads", |cpu| drop(cpu.threads())),
        ("tokens", |cpu| drop(cpu.tokens())),
        ("names_since", |cpu| drop(cpu.names_since(0))),
        ("announce_threads", Cpu::announce_threads),
        ("running_thread", |cpu| _ = cpu.running_thread()),
        ("thread_count", |cpu| _ = cpu.thread_count()),
        ("run_queue_length", |cpu| _ = cpu.run_queue_length()),
        ("poll_count", |cpu| _ = cpu.poll_count()),
        ("on_interrupt", |cpu| cpu.on_interrupt(1, Rc::new(|| ()))),
        ("interrupt", |cpu| cpu.interrupt(1)),
        ("interrupt_timer", |cpu| _ = cpu.interrupt_timer()),
        ("step", |cpu| _ = cpu.step()),
        ("run", Cpu::run),
    ];
    let hosted = start(2);
    for (name, use_it) in uses {
        assert!(refused(|| use_it(hosted.node().cpu(CpuId(1)))), "{name}");
        assert!(
            hosted.block_on(
                move || async move { refused(|| use_it(current().node().cpu(CpuId(1)))) }
            ),
            "{name} from another CPU"
        );
    }
    hosted
        .node()
        .set_trace_mask(executor::trace::ClassMask::ALL);
    let record = || {
        let event = executor::trace::Event::Mark;
        hosted.node().cpu(CpuId(1)).record(event, 0, 0, 0);
    };
    assert!(refused(record), "record");
}

#[test]
fn the_loop_does_not_nest() {
    hosted::run(1, || async {
        // Runnable itself: a nested step would poll this very poll.
        poll_fn(|context| {
            context.waker().wake_by_ref();
            assert!(refused(|| current().step()), "a step in a poll");
            Poll::Ready(())
        })
        .await;
        let in_message = run_on(CpuId(0), |cpu| {
            (refused(|| cpu.step()), refused(|| cpu.run()))
        });
        assert_eq!(in_message.await, (true, true), "in an IPI function");
    });
    let hosted = start(2);
    let refused = hosted.block_on(|| {
        run_on(CpuId(1), |cpu| {
            (refused(|| cpu.step()), refused(|| cpu.run()))
        })
    });
    assert_eq!(refused, (true, true), "in a message from elsewhere");
}

#[test]
fn a_thread_that_is_not_movable_cannot_move_with_a_borrowed_permit() {
    hosted::run(2, || async {
        let permit: Rc<Cell<Option<Mobile>>> = Rc::default();
        let given = permit.clone();
        spawn_movable("lender", move |mobile| {
            given.set(Some(mobile));
            async {}
        })
        .await;
        let mobile = permit.take().expect("lent");
        // This thread holds an Rc: moved, it would be a data race.
        let moved = poll_fn(|context| {
            let mut migrate = std::pin::pin!(mobile.migrate_to(CpuId(1)));
            Poll::Ready(refused(|| migrate.as_mut().poll(context)))
        });
        assert!(moved.await, "only a movable thread moves");
        yield_now().await;
        assert_eq!(current().id(), CpuId(0));
    });
}

#[test]
fn what_is_on_its_way_when_the_node_stops_is_dropped() {
    let item = Arc::new(());
    let hosted = start(2);
    let node = hosted.node().clone();
    // Every CPU has ended its loop: what comes now is never run.
    drop(hosted);
    let (in_message, in_thread) = (item.clone(), item.clone());
    send_to(node.cpu(CpuId(1)), move |_| drop(in_message));
    node.spawn_on(CpuId(0), "late", move || async move { drop(in_thread) })
        .detach();
    assert_eq!(Arc::strong_count(&item), 3);
    drop(node);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn a_ring_and_its_backlog_are_dropped_with_the_node() {
    let item = Arc::new(());
    let hosted = start(2);
    let theirs = item.clone();
    hosted.block_on(move || async move {
        let target = CpuId(1);
        // Holds CPU 1 in one poll while its ring overflows, and stops it before it can look.
        let busy = Arc::new(AtomicU32::new(0));
        let flag = busy.clone();
        spawn_on(target, "busy", move || async move {
            flag.store(1, Ordering::Release);
            while flag.load(Ordering::Acquire) == 1 {
                std::hint::spin_loop();
            }
            send_to(current(), |cpu| cpu.node().stop());
            pending::<()>().await;
        })
        .detach();
        while busy.load(Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        for _ in 0..1000 {
            let item = theirs.clone();
            send_to(current().node().cpu(target), move |_| drop(item));
        }
        let item = theirs.clone();
        spawn_on(target, "never begun", move || async move { drop(item) }).detach();
        let item = theirs;
        spawn_movable("in transit", move |mobile| async move {
            mobile.migrate_to(target).await;
            pending::<()>().await;
            drop(item);
        })
        .detach();
        busy.store(2, Ordering::Release);
    });
    drop(hosted);
    assert_eq!(Arc::strong_count(&item), 1);
}

struct Counter(Cell<u32>);
struct Add;
impl Message for Add {
    type Reply = ();
}
impl Server for Counter {
    type Work = Pending<Add>;
}
impl Serve<Add> for Counter {
    fn put(&self, _: Add) -> Put<Add> {
        self.0.set(self.0.get() + 1);
        Put::Done(())
    }
    fn queue(pending: Pending<Add>) -> Pending<Add> {
        pending
    }
}

#[test]
fn wakers_handles_and_ports_may_outlive_the_node() {
    let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let ours = kept.clone();
    let hosted = start(2);
    let (port, joined): (PortRef<Counter>, JoinHandle<()>) = hosted.block_on(|| async move {
        let keep = move |end: Poll<()>| {
            let ours = ours.clone();
            poll_fn(move |context| {
                let mut kept = ours.lock().expect("not poisoned");
                kept.push(context.waker().clone());
                end
            })
        };
        spawn("finished", keep(Poll::Ready(()))).await;
        let there = keep.clone();
        spawn_on(CpuId(1), "waits", move || there(Poll::Pending)).detach();
        spawn_on(CpuId(1), "after it", || async {}).await;
        let joined = spawn("joined", keep(Poll::Pending));
        yield_now().await;
        (Port::new(Counter(Cell::new(0))).handle(), joined)
    });
    drop(hosted);
    let wakers = std::mem::take(&mut *kept.lock().expect("not poisoned"));
    assert_eq!(wakers.len(), 3);
    for waker in wakers {
        waker.wake_by_ref();
        drop(waker.clone());
        waker.wake();
    }
    assert!(!joined.is_finished());
    drop(joined);
    assert_eq!(port.cpu(), CpuId(0));
    port.post(Add);
    let call = port.call(Add);
    assert!(!call.is_done(), "nobody is there to answer");
    drop(call);
    // From a CPU of another node, too.
    hosted::run(1, move || async move {
        port.post(Add);
        assert!(
            timeout(Duration::from_millis(1), port.call(Add))
                .await
                .is_err()
        );
    });
}

/// Leaves it all to a thread.

#[test]
fn a_message_may_outlive_the_node_of_its_caller_and_be_answered_on_another() {
    let (call, pending) = hosted::run(1, || async {
        let port = Port::new(Later::default());
        let mut call = port.handle().call(Add);
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut call).poll(context))).await;
        assert!(first.is_pending(), "this thread waits");
        (call, port.receive().await)
    });
    // Where the caller waited is memory of nobody now.
    hosted::run(1, move || async move {
        pending.reply(());
        call.await;
    });
}

/// A waker that is no thread's.
struct Nobody;
impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_message_that_is_lost_outside_of_every_cpu_leaves_no_waker() {
    let nobody = Arc::new(Nobody);
    let waker = Waker::from(nobody.clone());
    let (call, lost) = hosted::run(1, move || async move {
        let port = Port::new(Later::default());
        let mut call = port.handle().call(Add);
        let first = Pin::new(&mut call).poll(&mut Context::from_waker(&waker));
        assert!(first.is_pending());
        drop(waker);
        (call, port.receive().await)
    });
    assert_eq!(Arc::strong_count(&nobody), 2, "it waits");
    drop(lost);
    assert_eq!(Arc::strong_count(&nobody), 1);
    drop(call);
}

#[test]
#[should_panic(expected = "a CPU's thread has panicked")]
fn a_server_that_panics_with_a_message_in_its_hands_panics_once() {
    hosted::run(1, || async {
        let port = Port::new(Later::default());
        let _call = port.handle().call(Add);
        let _pending = port.receive().await;
        panic!("the server's own mistake");
    });
}

/// A port of a node that ends, with its handle and what keeps the node's memory.
fn left_behind() -> (PortRef<Later<Add>>, Arc<Node>) {
    let node = start(1);
    let handle = node.block_on(|| async { Port::new(Later::default()).handle() });
    (handle, node.node().clone())
}

#[test]
fn a_thread_that_drops_the_last_of_another_node_is_not_blamed_for_its_messages() {
    let (port, node) = left_behind();
    hosted::run(1, move || async move {
        let replies = ReplyPort::<u32, ()>::for_replies();
        port.send(Add, &replies, 1);
        port.send(Add, &replies, 2);
        drop(node);
        yield_now().await;
        assert!(replies.try_receive().is_none(), "nobody was there");
    });
}

#[test]
fn a_thread_that_drops_the_last_handle_of_a_dead_port_is_not_blamed_for_its_messages() {
    let serving = start(1);
    let port = serving.block_on(|| async { Port::new(Later::default()).handle() });
    hosted::run(1, move || async move {
        let call = port.call(Add);
        // It is queued once this is answered.
        serving.block_on(|| async { yield_now().await });
        drop(serving);
        drop(port);
        yield_now().await;
        assert!(!call.is_done());
    });
}

/// A sleep of an hour that was polled once, on a node that is gone.
fn old_sleep() -> Sleep {
    hosted::run(1, || async {
        let mut sleep = sleep(Duration::from_secs(3600));
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut sleep).poll(context))).await;
        assert!(first.is_pending());
        (sleep,)
    })
    .0
}

#[test]
fn a_sleep_that_outlives_its_node_has_no_timer_of_another() {
    // Now and then the new CPU has the address of the old one.
    for _ in 0..20 {
        let (mut polled, mut reset, dropped) = (old_sleep(), old_sleep(), old_sleep());
        hosted::run(1, move || async move {
            let sleeper = spawn("sleeper", sleep(Duration::from_millis(1)));
            yield_now().await;
            let early = poll_fn(|context| Poll::Ready(Pin::new(&mut polled).poll(context))).await;
            assert!(early.is_pending(), "an hour has passed");
            reset.reset(u64::MAX);
            drop(dropped);
            let woken = timeout(Duration::from_secs(10), sleeper).await;
            woken.expect("its timer is its own");
        });
    }
}

#[test]
fn a_caller_of_another_node_may_go_before_its_reply() {
    let serving = start(1);
    let (arrived, go) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let (told, gone) = (arrived.clone(), go.clone());
    let port = serving.block_on(|| async move {
        let port = Port::new(Later::default());
        let handle = port.handle();
        spawn("keeper", async move {
            let pending = port.receive().await;
            told.signal();
            gone.wait().await;
            pending.reply(());
            pending_forever(port).await;
        })
        .detach();
        handle
    });
    hosted::run(1, move || async move {
        spawn("caller", async move { port.call(Add).await }).detach();
        arrived.wait().await;
    });
    go.signal();
    serving.block_on(|| async { yield_now().await });
}

async fn pending_forever<T>(_held: T) {
    pending::<()>().await;
}

#[test]
fn a_server_let_go_outside_of_every_cpu_dies_on_its_own() {
    struct OnCpu(Rc<()>, Arc<AtomicU32>);
    impl Server for OnCpu {
        type Work = ();
    }
    impl Drop for OnCpu {
        fn drop(&mut self) {
            let there = try_current().map(Cpu::id) == Some(CpuId(0));
            self.1.store(1 + u32::from(there), Ordering::Release);
            drop(self.0.clone());
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let inner = dropped.clone();
    let hosted = start(1);
    let handle = hosted.block_on(|| async move { Port::new(OnCpu(Rc::new(()), inner)).handle() });
    drop(handle);
    hosted.block_on(yield_now);
    assert_eq!(dropped.load(Ordering::Acquire), 2);
}

#[test]
fn a_handler_is_dropped_on_its_own_cpu() {
    struct OnCpu(Arc<AtomicU32>);
    impl Drop for OnCpu {
        fn drop(&mut self) {
            self.0
                .store(1 + u32::from(try_current().is_some()), Ordering::Release);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let held = OnCpu(dropped.clone());
    hosted::run(1, || async move {
        let held = Rc::new(held);
        current().on_interrupt(7, Rc::new(move || drop(held.clone())));
    });
    assert_eq!(dropped.load(Ordering::Acquire), 2);
}

#[test]
fn a_thread_that_waits_in_nested_sections_can_be_abandoned() {
    hosted::run(1, || async {
        spawn("sections", async {
            let _sections = (critical::enter(), critical::enter(), critical::enter());
            pending::<()>().await;
        })
        .detach();
        yield_now().await;
    });
}

#[test]
fn the_watchdog_is_silent_when_off_and_right_when_its_budget_changes() {
    hosted::run(1, || async {
        let node = current().node();
        let look = || current().interrupt_timer();
        for _ in 0..3 {
            assert!(look().is_none(), "off from the start");
        }
        // Watched from here, with far to go; then the budget is taken away.
        node.set_watchdog_ns(1_000_000_000);
        sleep(Duration::from_micros(10)).await;
        assert!(look().is_none() && look().is_none());
        node.set_watchdog_ns(0);
        assert!(look().is_none() && look().is_none(), "turned off");
        // Watched by a budget that runs out, and is then made larger than all the time since boot.
        node.set_watchdog_ns(1_000_000);
        sleep(Duration::from_micros(10)).await;
        let _ = look();
        node.set_watchdog_ns(u64::MAX / 2);
        std::thread::sleep(Duration::from_millis(2));
        let overrun = look().expect("its time was up");
        assert!(overrun.ran_ns < 10_000_000_000, "{overrun:?}");
        node.set_watchdog_ns(u64::MAX);
        for _ in 0..3 {
            sleep(Duration::from_micros(10)).await;
            assert!(look().is_none() && look().is_none(), "a budget of for ever");
        }
    });
}

#[test]
fn scopes_of_no_token_and_of_one_token_twice() {
    hosted::run(1, || async {
        assert_eq!(
            hold_all::<0, _>([] as [&Token; 0], async |_| yield_now().await).await,
            ()
        );
        let token = Token::new("twice");
        let guarded = executor::Guarded::new(&token, 0);
        let same = token.clone();
        for round in 1..=3 {
            let both = hold_all([&token, &same], async |held| {
                yield_now().await;
                held.with(&guarded, |value| *value += 1);
                token.is_held()
            });
            assert!(both.await);
            assert!(!token.is_held(), "given back once in round {round}");
        }
        assert_eq!(guarded.token().id(), token.id());
    });
}

#[test]
fn a_token_is_given_back_when_its_holder_panics() {
    hosted::run(1, || async {
        let token = Token::new("panic");
        let failed = poll_fn(|context| {
            let body = async |_: executor::Held<'_>| panic!("on purpose");
            let mut scope = std::pin::pin!(token.hold(body));
            Poll::Ready(refused(|| scope.as_mut().poll(context)))
        });
        assert!(failed.await);
        assert!(!token.is_held());
        assert_eq!(token.hold(async |_| 7).await, 7);
    });
}

#[test]
fn deadlines_at_the_ends_of_time() {
    hosted::run(1, || async {
        sleep_until(0).await;
        sleep(Duration::ZERO).await;
        for deadline_ns in [u64::MAX, u64::MAX - 1, u64::MAX - 2] {
            let far = timeout(Duration::from_micros(50), sleep_until(deadline_ns));
            assert!(far.await.is_err());
        }
        assert!(
            timeout(Duration::from_micros(50), sleep(Duration::MAX))
                .await
                .is_err()
        );
    });
}

#[test]
fn more_cpus_than_bits_share_them() {
    const CPUS: usize = 130;
    hosted::run(CPUS, || async {
        let seen = Arc::new(AtomicU32::new(0));
        let each = seen.clone();
        chain(move |_| _ = each.fetch_add(1, Ordering::Relaxed)).await;
        assert_eq!(seen.load(Ordering::Relaxed), CPUS as u32);
        // 3, 63 and 123 share an inbox bit.
        let token = Token::new("shared");
        let handles: Vec<_> = [3, 63, 123, 0, 126, 129]
            .map(|cpu| {
                let token = token.clone();
                spawn_on(CpuId(cpu), "sharer", move || async move {
                    for _ in 0..50 {
                        token.hold(async |_| yield_now().await).await;
                        run_on(CpuId(0), |_| ()).await;
                    }
                })
            })
            .into();
        for handle in handles {
            handle.await;
        }
    });
}

/// A machine of which nothing is asked but its clock.
struct Still;
impl Platform for Still {
    fn clock_ns(&self) -> u64 {
        1
    }
    fn doorbell(&self, _: CpuId) {}
    fn idle(&self, _: &Cpu) {}
    fn set_timer(&self, _: Option<u64>) {}
}

#[test]
fn a_node_that_never_ran_drops_what_was_sent_to_it() {
    let item = Arc::new(());
    let node = Node::new(255, Arc::new(Still));
    for cpu in node.cpus() {
        let item = item.clone();
        node.spawn_on(cpu.id(), "never", move || async move { drop(item) })
            .detach();
    }
    assert_eq!(Arc::strong_count(&item), 256);
    drop(node);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn a_cpu_that_is_stepped_stops_and_leaves() {
    let dropped = Arc::new(());
    let node = Node::new(1, Arc::new(Still));
    let cpu = node.cpu(CpuId(0));
    let held = dropped.clone();
    node.spawn_on(cpu.id(), "waits", move || async move {
        assert!(refused(|| current().leave()), "a poll cannot leave");
        pending::<()>().await;
        drop(held);
    })
    .detach();
    // SAFETY: this host thread alone enters it.
    unsafe { cpu.enter() };
    while cpu.step() {}
    assert_eq!(cpu.thread_count(), 1);
    node.stop();
    while cpu.step() {}
    assert_eq!(cpu.thread_count(), 0);
    assert_eq!(Arc::strong_count(&dropped), 1);
    cpu.leave();
    assert!(try_current().is_none());
}

#[test]
fn a_flood_from_outside_of_every_cpu_arrives_whole_and_in_order() {
    const COUNT: u32 = 3000;
    let hosted = start(1);
    let (began, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (told, seen) = (began.clone(), done.clone());
    // One poll, until the whole flood is there.
    hosted
        .node()
        .spawn_on(CpuId(0), "busy", move || async move {
            while told.load(Ordering::Acquire) == 0 {
                std::hint::spin_loop();
            }
        })
        .detach();
    for number in 0..COUNT {
        let seen = seen.clone();
        send_to(hosted.node().cpu(CpuId(0)), move |_| {
            assert_eq!(seen.fetch_add(1, Ordering::AcqRel), number);
        });
    }
    began.store(1, Ordering::Release);
    let began = std::time::Instant::now();
    while done.load(Ordering::Acquire) != COUNT {
        assert!(began.elapsed() < Duration::from_secs(10), "some were lost");
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_of_a_node_that_never_ran_it_can_be_woken_and_asked_when_the_node_is_gone() {
    let node = Node::new(1, Arc::new(Still));
    // SAFETY: this host thread is the CPU, until it leaves.
    unsafe { node.cpu(CpuId(0)).enter() };
    let handle = spawn("never polled", async {});
    let thread = handle.thread();
    node.cpu(CpuId(0)).leave();
    drop(node);
    thread.wake();
    assert!(thread.has_ended());
    assert!(!handle.is_finished());
}

#[test]
fn threads_that_join_each_other_in_a_circle_are_gone_when_the_node_has_stopped() {
    type Place = Arc<Mutex<Option<executor::JoinHandle<()>>>>;
    let kept = Arc::new(());
    let places: [Place; 2] = Default::default();
    let theirs = (kept.clone(), places.clone());
    let hosted = start(1);
    let threads = hosted.block_on(move || async move {
        let (kept, places) = theirs;
        let circle = [0, 1].map(|number| {
            let (kept, other) = (kept.clone(), places[1 - number].clone());
            spawn("circle", async move {
                let _kept = kept;
                yield_now().await;
                let handle = other.lock().expect("no panic").take();
                handle.expect("put there").await;
            })
        });
        let threads = circle.each_ref().map(executor::JoinHandle::thread);
        for (place, handle) in places.iter().zip(circle) {
            *place.lock().expect("no panic") = Some(handle);
        }
        for _ in 0..3 {
            yield_now().await;
        }
        threads
    });
    drop(hosted);
    assert_eq!(Arc::strong_count(&kept), 1);
    // The waker of one in the other would keep both.
    let weak = threads.map(|thread| thread.has_ended());
    assert_eq!(weak, [true, true]);
}
