//! Sets of ports.

use executor::{
    CpuId, Message, Pending, Port, PortSet, Put, ReplyPort, Serve, Server, spawn, spawn_on,
    yield_now,
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

mod later;
mod support;

use later::Later;
use support::{poll_once, run, until};

/// A timer's message, which nobody answers.
struct Expired(u32);
impl Message for Expired {
    type Reply = ();
}
type Timers = Later<Expired>;

struct Double(u32);
impl Message for Double {
    type Reply = u32;
}
struct Doubler;
impl Server for Doubler {
    type Work = Pending<Double>;
}
impl Serve<Double> for Doubler {
    fn put(&self, message: Double) -> Put<Double> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Double>) -> Pending<Double> {
        pending
    }
}

/// Whatever comes to a thread with many ports.
#[derive(Debug, PartialEq)]
enum Any {
    Expired(u32),
    Doubled(u32),
    Reply(&'static str, u32),
}

fn expired(pending: Pending<Expired>) -> Any {
    Any::Expired(pending.message().0)
}

fn doubled(pending: Pending<Double>) -> Any {
    let number = pending.message().0;
    pending.reply(number * 2);
    Any::Doubled(number)
}

#[test]
fn a_set_waits_for_ports_of_many_kinds_and_lets_them_take_turns() {
    run(2, || async {
        let (timers, doubles) = (Port::new(Timers::default()), Port::new(Doubler));
        let replies = ReplyPort::for_replies();
        let set = PortSet::new();
        // What is queued before is found as well.
        timers.handle().post(Expired(0));
        set.add(&timers, expired);
        set.add(&doubles, doubled);
        set.add(&replies, |(key, reply)| Any::Reply(key, reply));
        for number in 1..4 {
            timers.handle().post(Expired(number));
        }
        doubles.handle().send(Double(1), &replies, "one");
        let far = doubles.handle();
        let answer = spawn_on(
            CpuId(1),
            "far",
            move || async move { far.call(Double(3)).await },
        );
        until("the far one", || doubles.queued() == 2).await;
        let mut order = Vec::new();
        for _ in 0..7 {
            order.push(set.receive().await);
        }
        let expected = [
            Any::Expired(0),
            Any::Doubled(1),
            Any::Expired(1),
            Any::Doubled(3),
            Any::Reply("one", 2),
            Any::Expired(2),
            Any::Expired(3),
        ];
        assert_eq!(order, expected);
        assert_eq!(answer.await, 6);
        assert!(set.try_receive().is_none());
        // It waits, and is woken by any of them.
        let mut waits = pin!(set.receive());
        assert!(poll_once(&mut waits).await.is_pending());
        let far = timers.handle();
        spawn_on(CpuId(1), "far", move || async move { far.post(Expired(9)) }).detach();
        assert_eq!(waits.await, Any::Expired(9));
    });
}

#[test]
fn a_message_costs_a_set_the_same_however_many_ports_it_has() {
    run(1, || async {
        let ports: Vec<_> = (0..500).map(|_| Port::new(Timers::default())).collect();
        let set = Rc::new(PortSet::new());
        let taken = Rc::new(RefCell::new(Vec::new()));
        for (number, port) in ports.iter().enumerate() {
            let looks = taken.clone();
            set.add(port, move |work| {
                looks.borrow_mut().push(number);
                expired(work)
            });
        }
        let thread_set = set.clone();
        let polls = Rc::new(Cell::new(0));
        let counted = polls.clone();
        spawn("server", async move {
            let mut serve = pin!(async { while thread_set.receive().await != Any::Expired(0) {} });
            poll_fn(|context| {
                counted.set(counted.get() + 1);
                serve.as_mut().poll(context)
            })
            .await;
        })
        .detach();
        yield_now().await;
        for number in [499, 7, 7, 250] {
            ports[number].handle().post(Expired(1));
            yield_now().await;
        }
        assert_eq!(
            *taken.borrow(),
            [499, 7, 7, 250],
            "nobody else was looked at"
        );
        assert_eq!(polls.get(), 5, "one poll each");
    });
}

#[test]
fn a_set_shares_its_ports_with_other_readers_and_lets_them_go() {
    run(1, || async {
        let port = Port::new(Timers::default());
        let set = PortSet::new();
        set.add(&port, expired);
        let mut reader = port.receive();
        assert!(poll_once(&mut reader).await.is_pending());
        port.handle().post(Expired(1));
        port.handle().post(Expired(2));
        assert_eq!(set.try_receive(), Some(Any::Expired(1)));
        assert_eq!(expired(reader.await), Any::Expired(2));
        // A message that is promised to the set goes to others with it, and with the wait of its thread.
        let mut second = port.receive();
        port.handle().post(Expired(3));
        {
            let mut waits = pin!(set.receive());
            assert_eq!(poll_once(&mut waits).await, Poll::Ready(Any::Expired(3)));
            let mut waits = pin!(set.receive());
            assert!(poll_once(&mut waits).await.is_pending());
            port.handle().post(Expired(4));
        }
        assert!(poll_once(&mut second).await.is_pending());
        drop(set);
        assert_eq!(expired(second.await), Any::Expired(4));
        port.handle().post(Expired(5));
        assert!(port.try_receive().is_some(), "the set is out of the line");
    });
}
