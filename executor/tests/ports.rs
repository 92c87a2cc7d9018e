//! Message ports.

use executor::{
    CpuId, Message, Pending, Port, PortRef, Put, Serve, Server, critical, current, current_cpu,
    hosted, run_on, spawn, spawn_movable, spawn_on, timeout, yield_now,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

struct Lookup(u32);
impl Message for Lookup {
    type Reply = Result<u64, i32>;
}
struct Insert(u32, u64);
impl Message for Insert {
    type Reply = ();
}

/// Answers small keys at once and leaves keys from 100 on to its thread.
#[derive(Default)]
struct Table {
    map: RefCell<BTreeMap<u32, u64>>,
    handled: RefCell<Vec<u32>>,
}

enum Work {
    Lookup(Pending<Lookup>),
    Insert(Pending<Insert>),
}

impl Server for Table {
    type Work = Work;
}

impl Table {
    fn look(&self, key: u32) -> Result<u64, i32> {
        self.handled.borrow_mut().push(key);
        self.map.borrow().get(&key).copied().ok_or(2)
    }
}

impl Serve<Lookup> for Table {
    fn put(&self, message: Lookup) -> Put<Lookup> {
        assert!(
            !critical::is_open(),
            "a handler runs in no critical section"
        );
        if message.0 >= 100 {
            Put::Later(message)
        } else {
            Put::Done(self.look(message.0))
        }
    }
    fn queue(pending: Pending<Lookup>) -> Work {
        Work::Lookup(pending)
    }
}

impl Serve<Insert> for Table {
    fn put(&self, message: Insert) -> Put<Insert> {
        if message.0 >= 100 {
            return Put::Later(message);
        }
        self.map.borrow_mut().insert(message.0, message.1);
        Put::Done(())
    }
    fn queue(pending: Pending<Insert>) -> Work {
        Work::Insert(pending)
    }
}

fn serve(table: Table) -> PortRef<Table> {
    let port = Port::new(table);
    let handle = port.handle();
    spawn("table", async move {
        loop {
            match port.receive().await {
                Work::Lookup(pending) => {
                    if let Err(pending) = pending.serve(port.server()) {
                        yield_now().await;
                        let key = pending.message().0;
                        pending.reply(port.server().look(key));
                    }
                }
                Work::Insert(pending) => {
                    let Insert(key, value) = *pending.message();
                    port.server().map.borrow_mut().insert(key, value);
                    pending.reply(());
                }
            }
        }
    })
    .detach();
    handle
}

#[test]
fn trap_36_an_inline_call_touches_no_queue_and_makes_no_poll() {
    hosted::run(1, || async {
        let port = serve(Table::default());
        yield_now().await;
        let (polls, queued) = (current().poll_count(), current().stats().ports_queued.get());
        port.call(Insert(1, 10)).await;
        assert_eq!(port.call(Lookup(1)).await, Ok(10));
        assert!(port.call(Lookup(2)).is_done());
        assert_eq!(current().poll_count(), polls, "no poll");
        assert_eq!(current().stats().ports_queued.get(), queued, "no queue");
        assert_eq!(current().stats().ports_inline.get(), 3);
    });
}

#[test]
fn trap_38_later_is_no_error_and_every_error_is_done() {
    hosted::run(1, || async {
        let port = serve(Table::default());
        yield_now().await;
        assert_eq!(port.call(Lookup(5)).await, Err(2), "an error is an answer");
        let call = port.call(Lookup(100));
        assert!(!call.is_done(), "later is not");
        assert_eq!(call.await, Err(2));
        port.call(Insert(100, 1)).await;
        assert_eq!(port.call(Lookup(100)).await, Ok(1));
    });
}

#[test]
fn messages_of_one_sender_are_handled_in_order_inline_or_queued() {
    hosted::run(2, || async {
        let port = serve(Table::default());
        yield_now().await;
        // The first is queued, so the second must be too although it could be answered at once.
        let (first, second) = (port.call(Lookup(100)), port.call(Lookup(1)));
        assert!(!second.is_done());
        let _ = (first.await, second.await);
        let remote = port.clone();
        spawn_on(CpuId(1), "remote", move || async move {
            let calls: Vec<_> = (0..400)
                .map(|n| remote.call(Lookup(n % 2 * 100 + n)))
                .collect();
            for call in calls {
                let _ = call.await;
            }
        })
        .await;
        let handled = port_log(&port).await;
        assert_eq!(handled[..2], [100, 1]);
        assert!(
            handled[2..]
                .iter()
                .copied()
                .eq((0..400).map(|n| n % 2 * 100 + n))
        );
    });
}

struct Log;
impl Message for Log {
    type Reply = Vec<u32>;
}
impl Serve<Log> for Table {
    fn put(&self, _: Log) -> Put<Log> {
        Put::Done(self.handled.borrow().clone())
    }
    fn queue(_: Pending<Log>) -> Work {
        unreachable!("asked only when the port is idle")
    }
}

async fn port_log(port: &PortRef<Table>) -> Vec<u32> {
    port.call(Log).await
}

#[test]
fn a_call_inside_a_critical_section_or_a_token_is_queued() {
    hosted::run(1, || async {
        let port = serve(Table::default());
        yield_now().await;
        let call = critical::section(|| port.call(Lookup(1)));
        assert!(!call.is_done());
        assert_eq!(call.await, Err(2));
        let token = executor::Token::new("callers");
        let inside = token.hold(async |_| port.call(Lookup(1)).is_done()).await;
        assert!(!inside, "a handler runs under no token of its caller");
    });
}

/// A server that calls itself: the inner call must be queued, not recurse.
struct Recursive {
    own: RefCell<Option<PortRef<Recursive>>>,
    inner_done: Cell<Option<bool>>,
}
struct Enter;
impl Message for Enter {
    type Reply = ();
}
impl Server for Recursive {
    type Work = Pending<Enter>;
}
impl Serve<Enter> for Recursive {
    fn put(&self, _: Enter) -> Put<Enter> {
        if let Some(own) = self.own.take() {
            self.inner_done.set(Some(own.call(Enter).is_done()));
        }
        Put::Done(())
    }
    fn queue(pending: Pending<Enter>) -> Pending<Enter> {
        pending
    }
}

#[test]
fn a_handler_that_calls_its_own_port_is_queued() {
    hosted::run(1, || async {
        let port = Port::new(Recursive {
            own: RefCell::default(),
            inner_done: Cell::new(None),
        });
        *port.server().own.borrow_mut() = Some(port.handle());
        port.call(Enter).await;
        assert_eq!(port.server().inner_done.get(), Some(false));
        assert!(
            port.try_receive()
                .expect("the aborted inner call")
                .is_aborted()
        );
    });
}

#[test]
fn replies_cross_cpus_exactly_once_and_a_dropped_call_is_an_abort_request() {
    hosted::run(2, || async {
        let port = spawn_on(CpuId(1), "maker", || async {
            let port = Port::new(Table::default());
            let handle = port.handle();
            spawn("slow server", async move {
                loop {
                    let Work::Lookup(pending) = port.receive().await else {
                        continue;
                    };
                    yield_now().await;
                    let answer = if pending.is_aborted() {
                        Err(125)
                    } else {
                        Ok(7)
                    };
                    pending.reply(answer);
                }
            })
            .detach();
            handle
        })
        .await;
        assert_eq!(port.cpu(), CpuId(1));
        for round in 0..3000u32 {
            let call = port.call(Lookup(100));
            if round % 3 == 0 {
                drop(call);
            } else {
                assert_eq!(call.await, Ok(7));
            }
        }
    });
}

#[test]
fn the_server_dies_on_its_own_cpu_whoever_lets_go_last() {
    struct Fragile(Rc<()>, CpuId, Arc<AtomicU32>);
    impl Drop for Fragile {
        fn drop(&mut self) {
            assert_eq!((current_cpu(), Rc::strong_count(&self.0)), (self.1, 1));
            self.2.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl Server for Fragile {
        type Work = ();
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let inner = dropped.clone();
    hosted::run(2, move || async move {
        let port = Port::new(Fragile(Rc::new(()), CpuId(0), inner));
        let handle = port.handle();
        drop(port);
        spawn_on(CpuId(1), "last", move || async move {
            drop(handle);
            // Behind what that sends home.
            run_on(CpuId(0), |_| ()).await;
        })
        .await;
    });
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

/// Lets a lookup wait until the test says go.
#[derive(Default)]
struct Gate {
    held: RefCell<Vec<Pending<Lookup>>>,
}
struct Go;
impl Message for Go {
    type Reply = ();
}
enum GateWork {
    Lookup(Pending<Lookup>),
    Go(Pending<Go>),
}
impl Server for Gate {
    type Work = GateWork;
}
impl Serve<Lookup> for Gate {
    fn put(&self, message: Lookup) -> Put<Lookup> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Lookup>) -> GateWork {
        GateWork::Lookup(pending)
    }
}
impl Serve<Go> for Gate {
    fn put(&self, message: Go) -> Put<Go> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Go>) -> GateWork {
        GateWork::Go(pending)
    }
}

/// Polls once.
async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
}

/// A gate on CPU 1.
async fn gate() -> PortRef<Gate> {
    spawn_on(CpuId(1), "start", || async {
        let port = Port::new(Gate::default());
        let handle = port.handle();
        spawn("gate", async move {
            loop {
                match port.receive().await {
                    GateWork::Lookup(pending) => port.server().held.borrow_mut().push(pending),
                    GateWork::Go(pending) => {
                        for held in port.server().held.take() {
                            let key = held.message().0;
                            held.reply(Ok(u64::from(key)));
                        }
                        pending.reply(());
                    }
                }
            }
        })
        .detach();
        handle
    })
    .await
}

#[test]
fn a_reply_follows_a_caller_that_moved() {
    // The reply's wake goes to the CPU where the call was made; the thread is on another one by then.
    hosted::run(3, || async {
        let gate = gate().await;
        let waits = spawn_movable("mover", {
            let gate = gate.clone();
            |mobile| async move {
                let mut call = gate.call(Lookup(7));
                assert!(is_pending(&mut call).await);
                mobile.migrate_to(CpuId(2)).await;
                assert!(is_pending(&mut call).await);
                // On this CPU, hence after this thread has begun to wait.
                spawn("go", async move { gate.post(Go) }).detach();
                let reply = call.await;
                assert_eq!(current_cpu(), CpuId(2));
                reply
            }
        });
        let reply = timeout(Duration::from_secs(10), waits).await;
        assert_eq!(reply.expect("the wake was lost"), Ok(7));
    });
}

#[test]
fn a_reply_wakes_through_a_combinator() {
    // FuturesUnordered has a waker of its own, behind which no thread can be seen.
    hosted::run(2, || async {
        let gate = gate().await;
        let mut calls: FuturesUnordered<_> = (0..5).map(|key| gate.call(Lookup(key))).collect();
        assert!(is_pending(&mut calls.next()).await);
        spawn("go", async move { gate.post(Go) }).detach();
        let mut sum = 0;
        let all = async {
            while let Some(reply) = calls.next().await {
                sum += reply.expect("a number");
            }
        };
        let all = timeout(Duration::from_secs(10), all).await;
        all.expect("a wake was lost");
        assert_eq!(sum, 10);
    });
}

/// A message that waits its turn, and one that does not.
struct Normal(u32);
impl Message for Normal {
    type Reply = ();
}
struct Urgent(u32);
impl Message for Urgent {
    type Reply = ();
    const PRIORITY: bool = true;
}

enum Either2 {
    Normal(Pending<Normal>),
    Urgent(Pending<Urgent>),
}

/// Answers nothing at once until it is told to.
#[derive(Default)]
struct Slow {
    at_once: Cell<bool>,
    done_at_once: RefCell<Vec<u32>>,
}

impl Server for Slow {
    type Work = Either2;
}

impl Serve<Normal> for Slow {
    fn put(&self, message: Normal) -> Put<Normal> {
        if !self.at_once.get() {
            return Put::Later(message);
        }
        self.done_at_once.borrow_mut().push(message.0);
        Put::Done(())
    }
    fn queue(pending: Pending<Normal>) -> Either2 {
        Either2::Normal(pending)
    }
}

impl Serve<Urgent> for Slow {
    fn put(&self, message: Urgent) -> Put<Urgent> {
        if !self.at_once.get() {
            return Put::Later(message);
        }
        self.done_at_once.borrow_mut().push(message.0);
        Put::Done(())
    }
    fn queue(pending: Pending<Urgent>) -> Either2 {
        Either2::Urgent(pending)
    }
}

#[test]
fn trap_45_priority_overtakes_what_has_none_and_nothing_else() {
    let order = hosted::run(2, || async {
        let port = Port::new(Slow::default());
        let handle = port.handle();
        // From another CPU, in the order of sending; and from this one.
        let (far, near) = (handle.clone(), handle);
        spawn_on(CpuId(1), "far", move || async move {
            far.post(Normal(1));
            far.post(Urgent(1));
        })
        .await;
        near.post(Normal(2));
        near.post(Urgent(2));
        while port.queued() < 4 {
            yield_now().await;
        }
        // What waits keeps its like from being answered at once, and an urgent message only by an urgent one.
        port.server().at_once.set(true);
        near.post(Normal(3));
        near.post(Urgent(3));
        assert_eq!(*port.server().done_at_once.borrow(), []);
        let mut order = Vec::new();
        while let Some(work) = port.try_receive() {
            match work {
                Either2::Normal(pending) => {
                    order.push(('N', pending.message().0));
                    pending.reply(());
                }
                Either2::Urgent(pending) => {
                    order.push(('P', pending.message().0));
                    pending.reply(());
                }
            }
            if order.len() == 3 {
                // No urgent one waits any more, three others do.
                near.post(Urgent(4));
                near.post(Normal(4));
                assert_eq!(*port.server().done_at_once.borrow(), [4]);
            }
        }
        order
    });
    let urgent: Vec<_> = order.iter().take(3).copied().collect();
    assert_eq!(
        urgent.iter().map(|(class, _)| *class).collect::<String>(),
        "PPP"
    );
    assert_eq!(urgent.last(), Some(&('P', 3)), "in the order of arrival");
    let rest: Vec<_> = order.iter().skip(3).map(|(class, _)| *class).collect();
    assert_eq!(rest, ['N'; 4]);
}

/// A question that is handed on until somebody knows.
struct Question(Vec<u16>);
impl Message for Question {
    type Reply = Vec<u16>;
}

/// One of a row of servers: answers what has come by all before it, if it is the last.
struct Desk {
    last: bool,
}

impl Server for Desk {
    type Work = Pending<Question>;
}

impl Serve<Question> for Desk {
    fn put(&self, mut question: Question) -> Put<Question> {
        if !self.last {
            return Put::Later(question);
        }
        question.0.push(current_cpu().0);
        Put::Done(question.0)
    }
    fn queue(pending: Pending<Question>) -> Pending<Question> {
        pending
    }
}

/// Opens a desk on a CPU, which hands everything on to `next`.
async fn open_desk(cpu: u16, next: Option<PortRef<Desk>>) -> PortRef<Desk> {
    spawn_on(CpuId(cpu), "open", move || async move {
        let port = Port::new(Desk {
            last: next.is_none(),
        });
        let handle = port.handle();
        let serve = async move {
            loop {
                let pending = port.receive().await;
                match &next {
                    Some(next) => next.forward(pending),
                    None => assert!(pending.serve(port.server()).is_ok(), "the last one knows"),
                }
            }
        };
        spawn("desk", serve).detach();
        handle
    })
    .await
}

#[test]
fn trap_42_a_forwarded_message_is_answered_once_to_its_sender() {
    hosted::run(3, || async {
        // Over three CPUs; two desks on the last one, so that one hop is a call within a CPU.
        let last = open_desk(2, None).await;
        let third = open_desk(2, Some(last)).await;
        let second = open_desk(1, Some(third)).await;
        let first = open_desk(0, Some(second)).await;
        let ask = async |number| {
            let answer = first.call(Question(vec![number]));
            let answer = timeout(Duration::from_secs(20), answer).await;
            assert_eq!(answer.expect("a reply was lost"), [number, 2]);
        };
        for round in 0..1_000 {
            ask(round).await;
        }
        // A caller that has gone away hinders nobody.
        drop(first.call(Question(vec![7])));
        ask(8).await;
    });
}
