//! The reply slot.

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

#[test]
fn a_caller_may_go_away_at_any_moment() {
    check(&[], || {
        let slot = Arc::new(ReplySlot::<Box<u32>>::default());
        let theirs = slot.clone();
        let server = thread::spawn(move || {
            let _ = theirs.is_aborted();
            // SAFETY: one reply per slot in this model.
            unsafe { theirs.reply(Box::new(7)) };
        });
        let bell = std::sync::Arc::new(Bell::default());
        if unsafe { slot.poll(&Waker::from(bell)) }.is_pending() {
            slot.abort();
        }
        drop(slot);
        server.join().unwrap();
    });
}
