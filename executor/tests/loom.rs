//! Models of every lock-free structure, checked over all interleavings by loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p executor --release --test loom`. Each structure has a model that must
//! hold and at least one broken twin: the same code with one [`Fault`] planted, which the model must catch. A model
//! that passes with its fault planted proves nothing, and fails this suite.
//!
//! What loom does not see: SeqCst fences (none are used here), and the real sizes (the ring has two slots here).
#![cfg(loom)]

use executor::{
    parts::{CAPACITY, Inbox, ReplySlot, Ring, TokenWord, Waiting, WakeMark},
    slab::{FreeNode, RemoteList, ZONE_SIZE, ZoneMap},
    sync::{Fault, planted},
    trace::{Event, Record, Ring as TraceRing},
};
use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use std::{
    env,
    process::Command,
    task::{Poll, Wake, Waker},
};

/// Tells a child process which of its model's faults to plant.
const PLANT: &str = "ANAX_PLANT_FAULT";

/// Checks that `model` holds, and that it does not with each of `faults` planted.
///
/// A model that fails may abort its process (loom's own types panic again as they are dropped), so each broken twin
/// runs in a child: this test, alone, with the fault planted.
fn check(faults: &[Fault], model: impl Fn() + Sync + Send + 'static) {
    let planted = env::var(PLANT)
        .ok()
        .map(|index| index.parse::<usize>().expect("an index"));
    if let Some(index) = planted {
        planted::plant(faults[index]);
    }
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
    if planted.is_some() {
        return;
    }
    let this_test = std::thread::current()
        .name()
        .expect("a test's thread is named")
        .to_owned();
    for (index, fault) in faults.iter().enumerate() {
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", &this_test])
            .env(PLANT, index.to_string())
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("this program runs again");
        assert!(
            !child.status.success(),
            "the model did not notice {fault:?}"
        );
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            said.contains("running 1 test"),
            "the child ran {this_test}: {said}"
        );
    }
}

/// A CPU that sleeps until its doorbell rings: what `hlt` and an IPI are to the models.
#[derive(Default)]
struct Doorbell {
    rung: loom::sync::Mutex<bool>,
    bell: loom::sync::Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.bell.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.bell.wait(rung).unwrap();
        }
        *rung = false;
    }
}

// SAFETY of the models: each ring below has one producer thread and one consumer thread, each slot one replier.

#[test]
fn traps_30_31_a_message_to_a_halting_cpu_is_never_lost() {
    // One sender, one owner that halts as soon as it finds nothing. A lost wake leaves the owner asleep for ever, which
    // loom reports as a deadlock.
    check(
        &[Fault::HaltWithoutCheck, Fault::PublishBeforeWrite],
        || {
            let shared = Arc::new((Inbox::new(), Ring::new(), Doorbell::default()));
            let theirs = shared.clone();
            let sender = thread::spawn(move || {
                let (inbox, ring, bell) = &*theirs;
                for value in [1, 2] {
                    // SAFETY: this model has one producer and one consumer, and this thread is the one.
                    unsafe { ring.push(Box::new(value)) }.unwrap();
                    if inbox.tell(1) {
                        bell.ring();
                    }
                }
            });
            let (inbox, ring, bell) = &*shared;
            let mut got = Vec::new();
            while got.len() < 2 {
                if inbox.collect() != 0 {
                    // SAFETY: this model has one producer and one consumer, and this thread is the one.
                    let _ = unsafe { ring.take_batch(|_, value| got.push(*value)) };
                } else if inbox.try_halt() {
                    bell.sleep();
                }
            }
            assert_eq!(got, [1, 2]);
            sender.join().unwrap();
        },
    );
}

#[test]
fn two_senders_ring_a_sleeping_cpu_at_least_once_and_save_the_rest() {
    check(&[Fault::HaltWithoutCheck], || {
        let shared = Arc::new((Inbox::new(), Doorbell::default(), AtomicUsize::new(0)));
        let senders: Vec<_> = [1, 2]
            .map(|bit| {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.2.fetch_add(1, Ordering::Relaxed);
                    if shared.0.tell(bit) {
                        shared.1.ring();
                    }
                })
            })
            .into();
        let mut bits = 0;
        while bits != 3 {
            bits |= shared.0.collect();
            if bits != 3 && shared.0.try_halt() {
                shared.1.sleep();
            }
        }
        assert_eq!(
            shared.2.load(Ordering::Relaxed),
            2,
            "what was done before a tell is seen"
        );
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn trap_28_a_sender_that_sleeps_over_a_full_ring_is_told_of_room() {
    check(&[Fault::SleepWithoutAsking], || {
        const MESSAGES: usize = CAPACITY + 1;
        let ring = Arc::new((Ring::new(), Doorbell::default()));
        let theirs = ring.clone();
        let sender = thread::spawn(move || {
            for value in 0..MESSAGES {
                let mut value = value;
                // SAFETY: this model has one producer and one consumer, and this thread is the one.
                while let Err(back) = unsafe { theirs.0.push(value) } {
                    theirs.0.ask_for_room();
                    match unsafe { theirs.0.push(back) } {
                        Ok(_) => break,
                        Err(back) => value = back,
                    }
                    theirs.1.sleep();
                }
            }
        });
        let mut next = 0;
        while next < MESSAGES {
            // SAFETY: loom checks the access; the token excludes the other thread.
            let told = unsafe {
                ring.0.take_batch(|_, value| {
                    assert_eq!(value, next);
                    next += 1;
                })
            };
            if told {
                ring.1.ring();
            }
            thread::yield_now();
        }
        sender.join().unwrap();
    });
}

/// A waker that counts and rings.
#[derive(Default)]
struct Bell(Doorbell, AtomicUsize);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.ring();
    }
}

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
fn a_token_excludes_and_its_release_wakes_who_sleeps_for_it() {
    check(
        &[Fault::ReleaseForgetsWaiters, Fault::TakeWithoutExchange],
        || {
            let shared = Arc::new((TokenWord::new(), UnsafeCell::new(0), Doorbell::default()));
            let take = |shared: &(TokenWord, UnsafeCell<usize>, Doorbell), cpu: usize| {
                while !shared.0.try_take() {
                    if shared.0.wait(cpu) == Waiting::Registered {
                        shared.2.sleep();
                    }
                }
                // SAFETY: loom checks the access; the token excludes the other thread.
                shared.1.with_mut(|count| unsafe { *count += 1 });
                if shared.0.release() != 0 {
                    shared.2.ring();
                }
            };
            let theirs = shared.clone();
            let other = thread::spawn(move || take(&theirs, 1));
            take(&shared, 0);
            other.join().unwrap();
            // SAFETY: loom checks the access; the token excludes the other thread.
            shared.1.with(|count| assert_eq!(unsafe { *count }, 2));
        },
    );
}

#[test]
fn remote_frees_reach_the_owner_exactly_once() {
    check(&[Fault::TakeWithoutSwap], || {
        let list = Arc::new(RemoteList::new());
        let freers: Vec<_> = (0..2)
            .map(|_| {
                let list = list.clone();
                thread::spawn(move || {
                    let node = Box::into_raw(Box::new(FreeNode::new()));
                    // SAFETY: the node was just boxed and is on no list.
                    unsafe { list.push(node) };
                })
            })
            .collect();
        let mut taken = Vec::new();
        // SAFETY: the node was just boxed and is on no list.
        unsafe { list.take_all(|node| taken.push(node)) };
        for freer in freers {
            freer.join().unwrap();
        }
        // SAFETY: the node was just boxed and is on no list.
        unsafe { list.take_all(|node| taken.push(node)) };
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 2);
        for node in taken {
            // SAFETY: boxed by the freer, taken off the list once.
            drop(unsafe { Box::from_raw(node) });
        }
    });
}

#[test]
fn a_zone_has_one_owner() {
    check(&[Fault::ClaimWithoutExchange], || {
        let words = vec![loom::sync::atomic::AtomicU64::new(0)];
        // SAFETY: the model never touches the memory behind the addresses.
        let zones = unsafe { ZoneMap::new(ZONE_SIZE as *mut u8, 2, Box::leak(words.into())) };
        zones.add(0, 2);
        let zones = Arc::new(zones);
        let claimers: Vec<_> = (0..2)
            .map(|_| {
                let zones = zones.clone();
                thread::spawn(move || zones.claim(1))
            })
            .collect();
        let claimed: Vec<_> = claimers
            .into_iter()
            .map(|claimer| claimer.join().unwrap())
            .collect();
        assert_ne!(
            claimed[0], claimed[1],
            "two owners, or none although two zones were free"
        );
    });
}

#[test]
fn a_trace_reader_shows_no_record_that_was_overwritten_under_it() {
    check(&[Fault::ReadWithoutRecheck], || {
        let ring = Arc::new(TraceRing::new());
        let record = |n: u64| Record::new(n, Event::Mark, 0, 0, n as u32);
        ring.push(record(0));
        ring.push(record(1));
        let theirs = ring.clone();
        let writer = thread::spawn(move || {
            theirs.push(record(2));
            theirs.push(record(3));
        });
        let mut out = [Record::default(); 2];
        let (first, count) = ring.read(0, &mut out);
        for (number, seen) in (first..).zip(&out[..count]) {
            assert_eq!(
                (seen.time_ns, seen.arg()),
                (number, number as u32),
                "torn or misplaced"
            );
        }
        writer.join().unwrap();
    });
}
