//! The inbox word, the doorbell and the rings.

use super::*;

// SAFETY of the models: each ring has one producer thread and one consumer thread.

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
fn trap_29_a_passive_message_does_not_cost_an_active_one_its_doorbell() {
    // The passive sender never comes back, so the active one alone can wake the owner: it must not think that somebody
    // rang because it finds a sender's bit.
    check(
        &[Fault::PassiveTakesTheBell, Fault::HaltWithoutCheck],
        || {
            let shared = Arc::new((Inbox::new(), Doorbell::default()));
            let theirs = shared.clone();
            let passive = thread::spawn(move || theirs.0.tell_passively(1));
            let theirs = shared.clone();
            let active = thread::spawn(move || {
                if theirs.0.tell(2) {
                    theirs.1.ring();
                }
            });
            let mut bits = 0;
            while bits & 2 == 0 {
                bits |= shared.0.collect();
                if bits & 2 == 0 && shared.0.try_halt() {
                    shared.1.sleep();
                }
            }
            let _ = passive.join().unwrap();
            active.join().unwrap();
            assert_eq!(bits | shared.0.collect(), 3);
        },
    );
}

#[test]
fn trap_29_of_all_who_tell_a_sleeping_cpu_passively_one_reminds_it() {
    check(
        &[Fault::PassiveTakesTheBell, Fault::HaltWithoutCheck],
        || {
            let shared = Arc::new((Inbox::new(), Doorbell::default()));
            let senders: Vec<_> = [1, 2]
                .map(|bit| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        // The time is up at once.
                        if shared.0.tell_passively(bit) && shared.0.remind() {
                            shared.1.ring();
                        }
                    })
                })
                .into();
            let mut bits = 0;
            while bits == 0 {
                bits |= shared.0.collect();
                if bits == 0 && shared.0.try_halt() {
                    shared.1.sleep();
                }
            }
            for sender in senders {
                sender.join().unwrap();
            }
            assert_eq!(bits | shared.0.collect(), 3);
        },
    );
}

#[test]
fn what_a_message_did_is_seen_by_who_finds_it_done() {
    check(&[Fault::DoneBeforeRun], || {
        let shared = Arc::new((Ring::new(), UnsafeCell::new(0)));
        let theirs = shared.clone();
        let target = thread::spawn(move || {
            let mut handled = 0;
            while handled < 2 {
                // SAFETY: this model has one producer and one consumer, and this thread is the one; loom checks the access.
                let _ = unsafe {
                    theirs.0.take_batch(|_, value| {
                        handled += 1;
                        // The other side looks when the messages are done.
                        theirs.1.with_mut(|did| *did += value);
                    })
                };
                thread::yield_now();
            }
        });
        for value in [1, 2] {
            // SAFETY: this model has one producer and one consumer, and this thread is the one.
            unsafe { shared.0.push(value) }.unwrap();
        }
        while !shared.0.has_done(2) {
            thread::yield_now();
        }
        // SAFETY: loom checks the access.
        assert_eq!(shared.1.with(|did| unsafe { *did }), 3);
        target.join().unwrap();
    });
}

#[test]
fn the_last_of_a_countdown_sees_what_all_of_them_did() {
    check(&[Fault::RelaxedCountdown], || {
        let shared = Arc::new((Countdown::new(2), UnsafeCell::new(0), UnsafeCell::new(0)));
        let other = shared.clone();
        let end = |mine: &UnsafeCell<u32>, (left, one, two): &(Countdown, _, _)| {
            // SAFETY: loom checks the access; each of the two has a cell of its own.
            mine.with_mut(|did| unsafe { *did = 1 });
            if left.count_down() {
                let sum = |cells: [&UnsafeCell<u32>; 2]| -> u32 {
                    // SAFETY: loom checks the access; the others have ended.
                    cells
                        .map(|cell| cell.with(|did| unsafe { *did }))
                        .iter()
                        .sum()
                };
                assert_eq!(sum([one, two]), 2);
                return true;
            }
            false
        };
        let thread = thread::spawn(move || end(&other.1, &other));
        let last = end(&shared.2, &shared);
        assert_ne!(thread.join().unwrap(), last, "one of them is the last");
    });
}

#[test]
fn what_the_last_of_a_countdown_gets_is_given_once() {
    check(&[Fault::RelaxedCountdown], || {
        let shared = Arc::new((Last::new(2, 7), UnsafeCell::new(0), UnsafeCell::new(0)));
        let other = shared.clone();
        let end = |mine: &UnsafeCell<u32>, others: &UnsafeCell<u32>, last: &Last<u32>| {
            // SAFETY: loom checks the access; each of the two has a cell of its own.
            mine.with_mut(|did| unsafe { *did = 1 });
            let given = last.count_down();
            if given.is_some() {
                // SAFETY: loom checks the access; the other has ended.
                assert_eq!(others.with(|did| unsafe { *did }), 1);
            }
            given
        };
        let thread = thread::spawn(move || end(&other.1, &other.2, &other.0));
        let here = end(&shared.2, &shared.1, &shared.0);
        assert_eq!(thread.join().unwrap().xor(here), Some(7));
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
