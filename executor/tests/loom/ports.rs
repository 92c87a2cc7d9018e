//! The reply slot, and the room of bounded ports.

use super::*;

// SAFETY of the models: each slot has one replier.

#[test]
fn trap_43_a_reply_wakes_its_caller_once_and_is_visible_before_done() {
    check(&[Fault::DoneWithoutSwap, Fault::RelaxedDone], || {
        let slot = Arc::new(ReplySlot::<Box<u32>>::default());
        let theirs = slot.clone();
        // SAFETY: one reply per slot in this model.
        let server = thread::spawn(move || unsafe { theirs.reply(Box::new(7)) });
        let bell = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let reply = loop {
            // SAFETY: this thread is the one caller of the slot.
            match unsafe { slot.poll(&waker) } {
                Poll::Ready(reply) => break reply,
                Poll::Pending => bell.0.sleep(),
            }
        };
        assert_eq!(*reply, 7);
        assert!(bell.1.load(Ordering::Relaxed) <= 1);
        server.join().unwrap();
    });
}

#[test]
fn a_caller_that_polls_again_with_another_waker_is_woken_by_the_newest() {
    check(&[Fault::DoneWithoutSwap], || {
        let slot = Arc::new(ReplySlot::<u32>::default());
        let theirs = slot.clone();
        // SAFETY: one reply per slot in this model.
        let server = thread::spawn(move || unsafe { theirs.reply(7) });
        let old = Waker::from(std::sync::Arc::new(Bell::default()));
        let bell = std::sync::Arc::new(Bell::default());
        let new = Waker::from(bell.clone());
        // SAFETY: this thread is the one caller of the slot.
        let mut reply = unsafe { slot.poll(&old) };
        while reply.is_pending() {
            reply = unsafe { slot.poll(&new) };
            if reply.is_pending() {
                bell.0.sleep();
                // SAFETY: this thread is the one caller of the slot.
                reply = unsafe { slot.poll(&new) };
            }
        }
        assert_eq!(reply, Poll::Ready(7));
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
    check(&[Fault::LeaveWithoutSwap], || {
        let slot = Arc::new(ReplySlot::<Token>::default());
        let (dropped, found) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (theirs, token, theirs_found) = (slot.clone(), Token(dropped.clone()), found.clone());
        let server = thread::spawn(move || {
            let gone = theirs.is_gone();
            // SAFETY: one reply per slot in this model.
            match unsafe { theirs.store(token) } {
                Stored::Kept => assert!(!gone),
                Stored::Wake(waker) => waker.wake(),
                Stored::Refused(_) => drop(theirs_found.fetch_add(1, Ordering::Relaxed)),
            }
        });
        let waker = Waker::from(std::sync::Arc::new(Bell::default()));
        // SAFETY: this thread is the one caller of the slot.
        let got = match unsafe { slot.poll(&waker) } {
            Poll::Ready(token) => Some(token),
            // SAFETY: as above.
            Poll::Pending => unsafe { slot.leave() },
        };
        if got.is_some() {
            found.fetch_add(1, Ordering::Relaxed);
        }
        drop((got, slot));
        server.join().unwrap();
        assert_eq!(found.load(Ordering::Relaxed), 1, "lost, or twice");
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn trap_40_an_abort_wakes_a_server_that_watches_and_the_reply_the_caller() {
    check(&[Fault::AbortWithoutSwap, Fault::DoneWithoutSwap], || {
        let slot = Arc::new(ReplySlot::<u32>::default());
        let theirs = slot.clone();
        let server = thread::spawn(move || {
            let bell = std::sync::Arc::new(Bell::default());
            let watcher = Waker::from(bell.clone());
            // SAFETY: this thread is the slot's one replier.
            while unsafe { theirs.watch(&watcher) }.is_pending() {
                bell.0.sleep();
            }
            assert!(bell.1.load(Ordering::Relaxed) <= 1, "one abort");
            // SAFETY: as above; one reply.
            unsafe { theirs.reply(7) };
        });
        let bell = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        // SAFETY: this thread is the one caller of the slot.
        assert!(
            unsafe { slot.poll(&waker) }.is_pending(),
            "it waits for the abort"
        );
        assert!(slot.abort());
        assert!(!slot.abort(), "asked once");
        let reply = loop {
            // SAFETY: this thread is the one caller of the slot.
            match unsafe { slot.poll(&waker) } {
                Poll::Ready(reply) => break reply,
                Poll::Pending => bell.0.sleep(),
            }
        };
        assert_eq!(reply, 7);
        server.join().unwrap();
    });
}

#[test]
fn a_server_that_watches_again_with_another_waker_is_woken_by_the_newest() {
    check(
        &[Fault::AbortWithoutSwap, Fault::WatchWithoutTakingBack],
        || {
            let slot = Arc::new(ReplySlot::<u32>::default());
            let theirs = slot.clone();
            let server = thread::spawn(move || {
                let old = Waker::from(std::sync::Arc::new(Bell::default()));
                let bell = std::sync::Arc::new(Bell::default());
                let new = Waker::from(bell.clone());
                // SAFETY: this thread is the slot's one replier.
                let mut told = unsafe { theirs.watch(&old) };
                while told.is_pending() {
                    // SAFETY: as above.
                    told = unsafe { theirs.watch(&new) };
                    if told.is_pending() {
                        bell.0.sleep();
                    }
                }
                assert!(theirs.is_aborted());
                // SAFETY: as above; one reply.
                unsafe { theirs.reply(7) };
            });
            // SAFETY: this thread is the one caller of the slot.
            let _ = unsafe { slot.leave() };
            drop(slot);
            server.join().unwrap();
        },
    );
}

#[test]
fn trap_41_an_abort_that_races_with_the_reply_costs_neither() {
    check(&[Fault::DoneWithoutSwap], || {
        let slot = Arc::new(ReplySlot::<u32>::default());
        let theirs = slot.clone();
        let server = thread::spawn(move || {
            let watcher = Waker::from(std::sync::Arc::new(Bell::default()));
            // SAFETY: this thread is the slot's one replier.
            let _ = unsafe { theirs.watch(&watcher) };
            // SAFETY: as above; one reply.
            unsafe { theirs.reply(7) };
        });
        let _ = slot.abort();
        let bell = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let reply = loop {
            // SAFETY: this thread is the one caller of the slot.
            match unsafe { slot.poll(&waker) } {
                Poll::Ready(reply) => break reply,
                Poll::Pending => bell.0.sleep(),
            }
        };
        assert_eq!((reply, slot.abort()), (7, false), "too late");
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
