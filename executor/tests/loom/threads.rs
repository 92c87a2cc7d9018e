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

/// A thread's memory: its life, its output, and the message that a handle elsewhere sends to its owner.
struct Ending {
    life: Life,
    output: UnsafeCell<u32>,
    /// Written when it is freed, read by who has a reference.
    memory: UnsafeCell<()>,
    /// Who has dropped the output, and who has freed the memory.
    dropped: AtomicUsize,
    freed: AtomicUsize,
    asked: Mutex<Option<Asked>>,
}

/// What a handle elsewhere asks the owner for. It has a reference.
enum Asked {
    Join(Waker),
    Detach,
}

impl Ending {
    /// With so many references of the owner's.
    fn new(references: usize) -> Arc<Self> {
        Arc::new(Self {
            life: Life::new(references),
            output: UnsafeCell::new(0),
            memory: UnsafeCell::new(()),
            dropped: AtomicUsize::new(0),
            freed: AtomicUsize::new(0),
            asked: Mutex::new(None),
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
        unsafe {
            let joiner = self.life.take_joiner();
            if self.life.finish() {
                if let Some(joiner) = joiner {
                    joiner.wake();
                }
            } else {
                self.drop_output();
                if self.life.settle(0) {
                    self.free();
                }
            }
        }
    }

    /// What the owner does between two polls. True: it was asked.
    fn look(&self) -> bool {
        let asked = self.asked.lock().unwrap().take();
        // SAFETY: the owner; a handle that goes sends its reference.
        unsafe {
            match asked {
                None => return false,
                Some(Asked::Join(waker)) => {
                    if self.life.has_ended() {
                        waker.wake();
                        self.release();
                    } else {
                        self.life.wait(&waker);
                        self.life.release_at_home();
                    }
                }
                Some(Asked::Detach) if self.life.has_ended() => self.leave(),
                Some(Asked::Detach) => drop(self.life.detach()),
            }
        }
        true
    }

    fn ask(&self, asked: Asked) {
        *self.asked.lock().unwrap() = Some(asked);
    }

    /// The handle goes after the end.
    unsafe fn leave(&self) {
        // SAFETY: the handle, which has seen the end.
        unsafe {
            if !self.life.is_alone() && self.life.is_done() {
                self.drop_output();
            }
            if self.life.settle(1) {
                self.free();
            }
        }
    }

    fn release(&self) {
        if self.life.release() {
            self.free();
        }
    }

    fn free(&self) {
        // Freeing touches everything; loom sees who still does.
        self.memory.with_mut(|_| ());
        // SAFETY: as above.
        self.output.with_mut(|output| unsafe { *output = 99 });
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_joins_from_elsewhere_is_woken_and_sees_the_output() {
    check(&[Fault::RelaxedFinish], || {
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let owner = thread::spawn(move || {
            theirs.look();
            theirs.finish();
            theirs.look();
        });
        let bell = std::sync::Arc::new(Bell::default());
        if !ending.life.is_done() {
            ending.life.retain();
            ending.ask(Asked::Join(Waker::from(bell.clone())));
        }
        let mut joined = Some(owner);
        if !ending.life.is_done() {
            // The owner has looked for the last time, or it has rung.
            joined.take().unwrap().join().unwrap();
            ending.look();
            bell.0.sleep();
        }
        assert!(ending.life.is_done());
        // SAFETY: done: the output is the handle's, which goes.
        unsafe {
            assert_eq!(ending.output.with(|output| *output), 7);
            ending.leave();
        }
        if let Some(owner) = joined {
            owner.join().unwrap();
        }
        while ending.look() {}
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_thread_that_is_abandoned_keeps_no_waker_and_goes_with_its_handle() {
    check(&[Fault::EndWithoutMerge], || {
        let ending = Ending::new(2);
        let bell = std::sync::Arc::new(Bell::default());
        // SAFETY: at home.
        unsafe { ending.life.wait(&Waker::from(bell.clone())) };
        let theirs = ending.clone();
        let handle = thread::spawn(move || {
            if theirs.life.has_ended() {
                // SAFETY: the handle, once.
                unsafe { theirs.leave() };
            } else {
                theirs.ask(Asked::Detach);
            }
        });
        // SAFETY: this thread is the owner, once.
        unsafe { ending.life.abandon() };
        ending.release();
        handle.join().unwrap();
        ending.look();
        assert_eq!(std::sync::Arc::strong_count(&bell), 1, "a waker was kept");
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
        assert_eq!(ending.dropped.load(Ordering::Relaxed), 0, "no output");
    });
}

#[test]
fn an_output_that_nobody_takes_goes_with_the_handle_or_with_the_thread() {
    check(&[Fault::RelaxedFinish], || {
        let ending = Ending::new(2);
        let theirs = ending.clone();
        let handle = thread::spawn(move || {
            if theirs.life.has_ended() {
                // SAFETY: the handle, once.
                unsafe { theirs.leave() };
            } else {
                theirs.ask(Asked::Detach);
            }
        });
        ending.look();
        ending.finish();
        handle.join().unwrap();
        ending.look();
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn trap_21_memory_is_freed_once_after_the_last_reference_wherever_it_was_made() {
    check(
        &[Fault::EndWithoutMerge, Fault::SettleWithoutLooking],
        || {
            // The executor's reference, the handle's, and a waker's that was made at home and is dropped elsewhere.
            let ending = Ending::new(3);
            let [theirs, handles] = [(); 2].map(|()| ending.clone());
            let elsewhere = thread::spawn(move || {
                // It is cloned there once more.
                theirs.life.retain();
                theirs.memory.with(|_| ());
                theirs.release();
                theirs.release();
            });
            let handle = thread::spawn(move || {
                if handles.life.has_ended() {
                    // SAFETY: the handle, once.
                    unsafe { handles.leave() };
                } else {
                    handles.ask(Asked::Detach);
                }
            });
            // SAFETY: this thread is the owner.
            unsafe {
                ending.life.retain_at_home();
                ending.life.release_at_home();
                // The output is not what this model is about.
                if !ending.life.finish() && ending.life.settle(0) {
                    ending.free();
                }
            }
            elsewhere.join().unwrap();
            handle.join().unwrap();
            ending.look();
            assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
        },
    );
}

#[test]
fn a_thread_without_a_handle_is_freed_by_its_owner_or_by_who_has_the_last_reference() {
    check(
        &[Fault::EndWithoutMerge, Fault::SettleWithoutLooking],
        || {
            let ending = Ending::new(3);
            // SAFETY: this thread is the owner.
            drop(unsafe { ending.life.detach() });
            let theirs = ending.clone();
            let elsewhere = thread::spawn(move || {
                theirs.life.retain();
                theirs.memory.with(|_| ());
                theirs.release();
                theirs.release();
            });
            // SAFETY: the owner, once.
            unsafe {
                assert!(!ending.life.finish(), "there is no handle");
                if ending.life.settle(0) {
                    ending.free();
                }
            }
            elsewhere.join().unwrap();
            assert_eq!(ending.freed.load(Ordering::Relaxed), 1);
        },
    );
}

#[test]
fn a_wake_against_exit_finds_memory() {
    // The executor's reference is the main thread's, the handle is detached; the waker has a third.
    check(&[Fault::WakeWithoutCount], || {
        struct Block {
            life: Life,
            mark: WakeMark,
            messages: AtomicUsize,
            freed: UnsafeCell<bool>,
        }
        impl Block {
            fn free(&self) {
                // SAFETY: loom checks the access; nobody else refers to the block.
                self.freed.with_mut(|freed| unsafe {
                    assert!(!*freed, "freed twice");
                    *freed = true;
                });
            }
            fn release(&self) {
                if self.life.release() {
                    self.free();
                }
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
            freed: UnsafeCell::new(false),
        });
        // SAFETY: this thread is the owner.
        drop(unsafe { block.life.detach() });
        block.life.retain();
        let theirs = block.clone();
        let waker = thread::spawn(move || {
            if theirs.life.begin_wake(&theirs.mark) {
                theirs.messages.fetch_add(1, Ordering::Release);
            }
            theirs.release();
        });
        block.handle_messages();
        // SAFETY: the owner, once.
        if unsafe { !block.life.finish() && block.life.settle(0) } {
            block.free();
        }
        waker.join().unwrap();
        block.handle_messages();
        // SAFETY: loom checks the access.
        block
            .freed
            .with(|freed| unsafe { assert!(*freed, "never freed") });
    });
}
