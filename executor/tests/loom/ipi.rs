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
