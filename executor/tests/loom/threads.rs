//! The wake mark.

use super::*;

#[test]
fn trap_20_a_wake_is_followed_by_a_poll_that_sees_what_caused_it() {
    check(&[Fault::ClearMarkAfterPoll], || {
        struct Thread {
            mark: WakeMark,
            messages: AtomicUsize,
            condition: [AtomicBool; 2],
        }
        let shared = Arc::new(Thread {
            mark: WakeMark::new(),
            messages: AtomicUsize::new(0),
            condition: [AtomicBool::new(false), AtomicBool::new(false)],
        });
        let wakers: Vec<_> = [0, 1]
            .map(|index| {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.condition[index].store(true, Ordering::Relaxed);
                    if shared.mark.set() {
                        shared.messages.fetch_add(1, Ordering::Release);
                    }
                })
            })
            .into();
        let mut seen = [false; 2];
        let mut handle = || {
            if shared.messages.load(Ordering::Acquire) == 0 {
                return false;
            }
            shared.messages.fetch_sub(1, Ordering::AcqRel);
            shared.mark.clear(|| {
                seen = [0, 1].map(|index| shared.condition[index].load(Ordering::Relaxed));
            });
            true
        };
        handle();
        for waker in wakers {
            waker.join().unwrap();
        }
        while handle() {}
        assert_eq!(
            seen,
            [true, true],
            "the last poll came before a wake that sent no message"
        );
    });
}
