//! A reply on its way, and the room of bounded ports.

use super::*;
use std::ptr;

fn reply<R>() -> (Awaited<R>, Owed<R>) {
    pair(ptr::null(), ())
}

/// Replies, and wakes the caller if it waits.
fn answer<R>(owed: Owed<R>, reply: R) {
    if let Stored::Wake(waker, _) = owed.store(reply) {
        waker.wake();
    }
}

/// Polls until the reply is here, and sleeps in between.
fn wait<R>(awaited: &mut Awaited<R>) -> R {
    let bell = std::sync::Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let reply = loop {
        match awaited.poll(&waker) {
            Poll::Ready(reply) => break reply,
            Poll::Pending => bell.0.sleep(),
        }
    };
    assert!(bell.1.load(Ordering::Relaxed) <= 1);
    reply
}

#[test]
fn trap_43_a_reply_wakes_its_caller_once_and_is_visible_before_done() {
    let faults = [
        Fault::DoneWithoutSwap,
        Fault::RelaxedDone,
        Fault::WaitWithoutExchange,
    ];
    check(&faults, || {
        let (mut awaited, owed) = reply();
        let server = thread::spawn(move || answer(owed, Box::new(7)));
        assert_eq!(*wait(&mut awaited), 7);
        server.join().unwrap();
    });
}

#[test]
fn a_caller_that_polls_again_with_another_waker_is_woken_by_the_newest() {
    let faults = [Fault::DoneWithoutSwap, Fault::WaitWithoutExchange];
    check(&faults, || {
        let (mut awaited, owed) = reply();
        let server = thread::spawn(move || answer(owed, 7));
        let old = Waker::from(std::sync::Arc::new(Bell::default()));
        let reply = match awaited.poll(&old) {
            Poll::Ready(reply) => reply,
            Poll::Pending => wait(&mut awaited),
        };
        assert_eq!(reply, 7);
        server.join().unwrap();
    });
}

/// Tells when it goes.
struct Token(Arc<AtomicUsize>);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn trap_39_a_reply_belongs_to_one_side_when_the_caller_goes_away_at_any_moment() {
    // The reply may be a message on its way to a reader: one side has it in the end, and not both.
    let faults = [Fault::LeaveWithoutSwap, Fault::DoneWithoutSwap];
    check(&faults, || {
        let (mut awaited, owed) = reply();
        let (dropped, found) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (token, theirs_found) = (Token(dropped.clone()), found.clone());
        let server = thread::spawn(move || {
            let gone = owed.is_gone();
            match owed.store(token) {
                Stored::Kept => assert!(!gone),
                Stored::Wake(waker, _) => waker.wake(),
                Stored::Refused(_) => drop(theirs_found.fetch_add(1, Ordering::Relaxed)),
            }
        });
        let waker = Waker::from(std::sync::Arc::new(Bell::default()));
        let got = match awaited.poll(&waker) {
            Poll::Ready(token) => Some(token),
            Poll::Pending => awaited.leave(),
        };
        if got.is_some() {
            found.fetch_add(1, Ordering::Relaxed);
        }
        drop(got);
        server.join().unwrap();
        assert_eq!(found.load(Ordering::Relaxed), 1, "lost, or twice");
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn the_last_of_the_two_ends_frees_what_they_share_also_when_there_is_no_reply() {
    let faults = [Fault::LeaveWithoutSwap, Fault::LoseWithoutSwap];
    check(&faults, || {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (mut awaited, owed) = pair::<u32, _>(ptr::null(), Token(dropped.clone()));
        let server = thread::spawn(move || drop(owed));
        let waker = Waker::from(std::sync::Arc::new(Bell::default()));
        assert!(awaited.poll(&waker).is_pending());
        assert!(awaited.poll(&waker).is_pending(), "for ever");
        assert!(awaited.leave().is_none());
        server.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn trap_40_an_abort_wakes_a_server_that_watches_and_the_reply_the_caller() {
    check(&[Fault::AbortWithoutSwap, Fault::DoneWithoutSwap], || {
        let (mut awaited, mut owed) = reply();
        let server = thread::spawn(move || {
            let bell = std::sync::Arc::new(Bell::default());
            let watcher = Waker::from(bell.clone());
            while owed.watch(&watcher).is_pending() {
                bell.0.sleep();
            }
            assert!(bell.1.load(Ordering::Relaxed) <= 1, "one abort");
            answer(owed, 7);
        });
        let waker = Waker::from(std::sync::Arc::new(Bell::default()));
        assert!(awaited.poll(&waker).is_pending(), "it waits for the abort");
        assert!(awaited.abort());
        assert!(!awaited.abort(), "asked once");
        assert_eq!(wait(&mut awaited), 7);
        server.join().unwrap();
    });
}

#[test]
fn a_server_that_watches_again_with_another_waker_is_woken_by_the_newest() {
    check(
        &[Fault::AbortWithoutSwap, Fault::WatchWithoutTakingBack],
        || {
            let (awaited, mut owed) = reply();
            let server = thread::spawn(move || {
                let old = Waker::from(std::sync::Arc::new(Bell::default()));
                let bell = std::sync::Arc::new(Bell::default());
                let new = Waker::from(bell.clone());
                let mut told = owed.watch(&old);
                while told.is_pending() {
                    told = owed.watch(&new);
                    if told.is_pending() {
                        bell.0.sleep();
                    }
                }
                assert!(owed.is_aborted());
                answer(owed, 7);
            });
            let _ = awaited.leave();
            server.join().unwrap();
        },
    );
}

#[test]
fn trap_41_an_abort_that_races_with_the_reply_costs_neither() {
    check(&[Fault::DoneWithoutSwap], || {
        let (mut awaited, mut owed) = reply();
        let server = thread::spawn(move || {
            let watcher = Waker::from(std::sync::Arc::new(Bell::default()));
            let _ = owed.watch(&watcher);
            answer(owed, 7);
        });
        let _ = awaited.abort();
        assert_eq!(wait(&mut awaited), 7);
        assert!(!awaited.abort(), "too late");
        server.join().unwrap();
    });
}

#[test]
fn a_place_is_given_once() {
    check(&[Fault::EnterWithoutExchange], || {
        let room = Arc::new(Room::new(1));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let room = room.clone();
                thread::spawn(move || room.try_enter())
            })
            .collect();
        let entered = senders
            .into_iter()
            .map(|sender| usize::from(sender.join().unwrap()))
            .sum::<usize>();
        assert_eq!(entered, 1);
        assert!(!room.try_enter());
        room.leave();
        assert!(room.try_enter() && !room.enter());
    });
}
