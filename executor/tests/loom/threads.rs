//! The wake mark, and the end of a thread.

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

/// A thread's last words: its life and its output.
struct Ending {
    life: Life,
    output: UnsafeCell<u32>,
    /// Who has dropped the output, and who has freed the memory.
    dropped: AtomicUsize,
    freed: AtomicUsize,
}

impl Ending {
    /// With so many references of the owner's.
    fn new(references: usize) -> Arc<Self> {
        Arc::new(Self {
            life: Life::new(references),
            output: UnsafeCell::new(0),
            dropped: AtomicUsize::new(0),
            freed: AtomicUsize::new(0),
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
        // SAFETY: the owner, once in each model.
        match unsafe { self.life.finish() } {
            Finish::Nobody => {}
            Finish::Waiting(waker) => waker.wake(),
            Finish::Detached => self.drop_output(),
        }
        self.release();
    }

    fn release(&self) {
        if self.life.release() {
            // SAFETY: freeing touches everything; loom sees who still does.
            self.output.with_mut(|output| unsafe { *output = 99 });
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_thread_that_ends_wakes_who_joins_and_its_output_is_visible() {
    check(&[Fault::RelaxedFinish, Fault::KeepWaiting], || {
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let owner = thread::spawn(move || theirs.finish());
        // Polled twice at once, each time by another waker, as a combinator does.
        let mut bell = std::sync::Arc::new(Bell::default());
        for _ in 0..2 {
            bell = std::sync::Arc::new(Bell::default());
            // SAFETY: this thread is the one handle.
            if unsafe { ending.life.poll(&Waker::from(bell.clone())) } {
                break;
            }
        }
        if !ending.life.is_done() {
            bell.0.sleep();
        }
        assert!(ending.life.is_done());
        // SAFETY: done: the output is the handle's.
        assert_eq!(ending.output.with(|output| unsafe { *output }), 7);
        ending.release();
        owner.join().unwrap();
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_thread_that_is_abandoned_while_its_handle_polls_keeps_no_waker() {
    check(&[Fault::KeepWaiting], || {
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let owner = thread::spawn(move || {
            // SAFETY: the owner, once.
            unsafe { theirs.life.abandon() };
            theirs.release();
        });
        let bells = [(); 2].map(|()| std::sync::Arc::new(Bell::default()));
        for bell in &bells {
            // SAFETY: this thread is the one handle.
            let done = unsafe { ending.life.poll(&Waker::from(bell.clone())) };
            assert!(!done, "there is no output");
        }
        ending.release();
        owner.join().unwrap();
        for bell in bells {
            assert_eq!(std::sync::Arc::strong_count(&bell), 1, "a waker was kept");
        }
    });
}

#[test]
fn an_output_that_nobody_takes_is_dropped_by_one_of_two() {
    check(&[Fault::RelaxedFinish], || {
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let owner = thread::spawn(move || theirs.finish());
        if ending.life.detach() {
            ending.drop_output();
        }
        ending.release();
        owner.join().unwrap();
        assert_eq!(ending.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn trap_21_memory_is_freed_once_after_the_last_reference_wherever_it_was_made() {
    check(&[Fault::EndWithoutMerge], || {
        // The executor's reference, and a waker's that was made at home and is dropped elsewhere.
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let elsewhere = thread::spawn(move || {
            // It is cloned there once more.
            theirs.life.retain();
            theirs.release();
            theirs.release();
        });
        // SAFETY: this thread is the owner.
        unsafe {
            ending.life.retain_at_home();
            ending.life.release_at_home();
        }
        ending.finish();
        elsewhere.join().unwrap();
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_wake_against_exit_finds_memory_and_the_output_is_dropped_once() {
    // The executor's reference is the main thread's, the handle's another one's; the waker has a third.
    check(&[Fault::WakeWithoutCount, Fault::DetachWithoutSwap], || {
        struct Block {
            life: Life,
            mark: WakeMark,
            messages: AtomicUsize,
            output: UnsafeCell<Option<Box<u32>>>,
            dropped: AtomicUsize,
            freed: UnsafeCell<bool>,
        }
        impl Block {
            fn release(&self) {
                if self.life.release() {
                    // SAFETY: loom checks the access; nobody else refers to the block.
                    self.freed.with_mut(|freed| unsafe {
                        assert!(!*freed, "freed twice");
                        *freed = true;
                    });
                }
            }
            fn drop_output(&self) {
                // SAFETY: loom checks the access.
                let output = self.output.with_mut(|output| unsafe { (*output).take() });
                assert_eq!(output.as_deref(), Some(&7));
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            fn handle_messages(&self) {
                while self.messages.load(Ordering::Acquire) != 0 {
                    self.messages.fetch_sub(1, Ordering::AcqRel);
                    // SAFETY: loom checks the access.
                    self.freed
                        .with(|freed| unsafe { assert!(!*freed, "a message to freed memory") });
                    self.mark.clear(|| ());
                    self.release();
                }
            }
        }
        let block = Arc::new(Block {
            life: Life::new(2),
            mark: WakeMark::new(),
            messages: AtomicUsize::new(0),
            output: UnsafeCell::new(None),
            dropped: AtomicUsize::new(0),
            freed: UnsafeCell::new(false),
        });
        block.life.retain();
        let theirs = block.clone();
        let waker = thread::spawn(move || {
            if theirs.life.begin_wake(&theirs.mark) {
                theirs.messages.fetch_add(1, Ordering::Release);
            }
            theirs.release();
        });
        let theirs = block.clone();
        let handle = thread::spawn(move || {
            if theirs.life.detach() {
                theirs.drop_output();
            }
            theirs.release();
        });
        block.handle_messages();
        // SAFETY: loom checks the access.
        block
            .output
            .with_mut(|output| unsafe { *output = Some(Box::new(7)) });
        // SAFETY: the owner, once.
        if let Finish::Detached = unsafe { block.life.finish() } {
            block.drop_output();
        }
        block.release();
        waker.join().unwrap();
        handle.join().unwrap();
        block.handle_messages();
        assert_eq!(block.dropped.load(Ordering::Relaxed), 1);
        // SAFETY: loom checks the access.
        block
            .freed
            .with(|freed| unsafe { assert!(*freed, "never freed") });
    });
}
