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
            life: Life::new(),
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
        if block.life.finish() {
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
