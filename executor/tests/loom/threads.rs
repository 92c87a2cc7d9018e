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

/// A thread's last words: the join word, its waker, and the output.
struct Ending {
    word: JoinWord,
    waker: JoinWaker,
    output: UnsafeCell<u32>,
    /// Who has dropped the output.
    dropped: AtomicUsize,
}

impl Ending {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: JoinWord::new(),
            waker: JoinWaker::new(),
            output: UnsafeCell::new(0),
            dropped: AtomicUsize::new(0),
        })
    }

    fn drop_output(&self) {
        // SAFETY: the word says whose it is; loom looks.
        self.output.with_mut(|output| unsafe { *output = 0 });
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// What the owner does after the last poll.
    fn finish(&self) {
        // SAFETY: the output is the owner's until it is done.
        self.output.with_mut(|output| unsafe { *output = 7 });
        match self.word.finish(&self.waker) {
            Finish::Nobody => {}
            Finish::Waiting(waker) => waker.wake(),
            Finish::Detached => self.drop_output(),
        }
    }
}

#[test]
fn a_thread_that_ends_wakes_who_joins_and_its_output_is_visible() {
    check(&[Fault::RelaxedFinish, Fault::KeepWaiting], || {
        let ending = Ending::new();
        let theirs = ending.clone();
        let owner = thread::spawn(move || theirs.finish());
        // Polled twice at once, each time by another waker, as a combinator does.
        let mut bell = std::sync::Arc::new(Bell::default());
        for _ in 0..2 {
            bell = std::sync::Arc::new(Bell::default());
            // SAFETY: this thread is the one handle.
            if unsafe { ending.word.poll(&ending.waker, &Waker::from(bell.clone())) } {
                break;
            }
        }
        if !ending.word.is_done() {
            bell.0.sleep();
        }
        assert!(ending.word.is_done());
        // SAFETY: done: the output is the handle's.
        assert_eq!(ending.output.with(|output| unsafe { *output }), 7);
        owner.join().unwrap();
    });
}

#[test]
fn an_output_that_nobody_takes_is_dropped_by_one_of_two() {
    check(&[Fault::RelaxedFinish], || {
        let ending = Ending::new();
        let theirs = ending.clone();
        let owner = thread::spawn(move || theirs.finish());
        if ending.word.detach() {
            ending.drop_output();
        }
        owner.join().unwrap();
        assert_eq!(ending.dropped.load(Ordering::Relaxed), 1);
    });
}
