//! Who sends papers to desks, and what they do about them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use executor::{Call, Full, Message, PortSet, ReplyPort, Serve, current_cpu, now_ns, sleep_until};

use super::notes::Caller;
use super::plan::{Manner, Stage, Then, Way};
use super::{Desk, Desks, Errand, Rush, Slip};

/// How long a caller waits for its errand to come so far, before it acts all the same.
const LONG_NS: u64 = 2_000_000;

fn write(desks: &Desks, desk: usize, manner: Manner, urgent: bool, caller: Caller) -> Errand {
    let register = desks.register.clone();
    let paper = register.writes(current_cpu().0, desk, urgent, caller);
    Errand {
        paper,
        manner,
        register,
    }
}

async fn poll_once<R>(call: &mut Call<R>) -> Poll<R> {
    use std::future::Future;
    poll_fn(|context| Poll::Ready(Pin::new(&mut *call).poll(context))).await
}

/// Calls a desk, and aborts the call or walks away if it is to.
pub async fn ask(
    desks: &Desks,
    desk: usize,
    manner: Manner,
    then: Then,
    polled: bool,
    refusable: bool,
) {
    let register = &desks.register;
    let errand = write(desks, desk, manner, false, Caller::Waits);
    let paper = errand.paper;
    let mut call = if refusable {
        match desks.port(desk).try_call(errand) {
            Ok(call) => call,
            Err(Full(back)) => return register.was_refused(paper, back.paper),
        }
    } else {
        desks.port(desk).call(errand)
    };
    register.was_sent(paper, !refusable);
    if polled && let Poll::Ready(reply) = poll_once(&mut call).await {
        return register.hears(paper, reply);
    }
    let stage = match then {
        Then::Wait => Stage::New,
        Then::Abort(stage) | Then::Leave(stage) => stage,
    };
    let (limit_ns, mut pause_ns) = (now_ns() + LONG_NS, 1_000);
    while register.stage(paper) < stage && now_ns() < limit_ns {
        sleep_until(now_ns() + pause_ns).await;
        pause_ns *= 2;
    }
    if then != Then::Wait && !call.is_done() {
        register.asks(paper, now_ns());
    }
    match then {
        Then::Wait => {}
        Then::Abort(_) => call.abort(),
        Then::Leave(_) => {
            register.leaves(paper);
            return drop(call);
        }
    }
    register.hears(paper, call.await);
}

/// Posts to a desk.
pub async fn hand(desks: &Desks, desk: usize, manner: Manner, count: u32, urgent: bool, way: Way) {
    for number in 0..count {
        let errand = write(desks, desk, manner, urgent, Caller::Nobody);
        if urgent {
            post(desks, desk, errand, Rush, |Rush(back)| back, way, number).await;
        } else {
            post(desks, desk, errand, Slip, |Slip(back)| back, way, number).await;
        }
    }
}

async fn post<M>(
    desks: &Desks,
    desk: usize,
    errand: Errand,
    wrap: impl Fn(Errand) -> M,
    unwrap: impl Fn(M) -> Errand,
    way: Way,
    turn: u32,
) where
    M: Message<Reply = ()> + Send,
    Desk: Serve<M>,
{
    let (register, port) = (&desks.register, desks.port(desk));
    let (paper, message) = (errand.paper, wrap(errand));
    match way {
        Way::Post => {
            port.post(message);
            register.was_sent(paper, true);
        }
        Way::Try => match port.try_post(message) {
            Ok(()) => register.was_sent(paper, false),
            Err(Full(back)) => {
                register.was_refused(paper, unwrap(back).paper);
                sleep_until(now_ns() + 3_000).await;
            }
        },
        Way::InTurn { impatient } => {
            let mut room = port.post_in_turn(message);
            register.was_sent(paper, true);
            if room.is_done() {
                return;
            }
            if impatient && turn.is_multiple_of(2) {
                let _ = poll_once(&mut room).await;
                return;
            }
            room.await;
            register.is_let_in(paper);
        }
    }
}

/// Sends errands, and receives their replies at ports of its own. What is under way when it leaves finds no port.
pub async fn letters(
    desks: &Arc<Desks>,
    desk: usize,
    manner: Manner,
    count: u32,
    set: bool,
    leaves: bool,
) {
    let register = &desks.register;
    let replies = [ReplyPort::for_replies(), ReplyPort::for_replies()];
    let both = PortSet::new();
    if set {
        for port in &replies {
            both.add(port, |reply: (u32, u64)| reply);
        }
    }
    let mut papers = Vec::new();
    for number in 0..count {
        let errand = write(desks, desk, manner, false, Caller::Waits);
        let paper = errand.paper;
        let lands = if set { number as usize % 2 } else { 0 };
        desks.port(desk).send(errand, &replies[lands], paper);
        register.was_sent(paper, true);
        papers.push(paper);
    }
    let waits = if leaves { count / 2 } else { count };
    for _ in 0..waits {
        let (paper, reply) = if set {
            both.receive().await
        } else {
            replies[0].receive().await
        };
        register.hears(paper, reply);
    }
    for paper in papers {
        register.leaves(paper);
    }
}
