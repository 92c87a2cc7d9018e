//! The token word, and the answer that stands for a release.

use super::*;

/// The names of the CPUs: even, as addresses are.
const CPUS: [usize; 2] = [4, 8];

#[test]
fn an_exclusive_hold_excludes_and_the_next_holder_sees_what_the_last_one_did() {
    check(&[Fault::TakeWithoutExchange, Fault::RelaxedRelease], || {
        let shared = Arc::new((TokenWord::new(), UnsafeCell::new(0)));
        let add = |shared: &(TokenWord, UnsafeCell<usize>), cpu: usize| {
            while let Err(found) = shared.0.try_take(cpu) {
                assert_eq!(found, Found::Exclusive(CPUS[0] + CPUS[1] - cpu));
                thread::yield_now();
            }
            assert!(shared.0.is_exclusive_of(cpu));
            // SAFETY: loom checks the access; the token excludes the other thread.
            shared.1.with_mut(|count| unsafe { *count += 1 });
            shared.0.release();
        };
        let theirs = shared.clone();
        let other = thread::spawn(move || add(&theirs, CPUS[1]));
        add(&shared, CPUS[0]);
        other.join().unwrap();
        // SAFETY: loom checks the access; the other thread has ended.
        shared.1.with(|count| assert_eq!(unsafe { *count }, 2));
        assert!(!shared.0.is_held());
    });
}

#[test]
fn trap_7_readers_share_and_a_writer_excludes_them_all() {
    check(
        &[
            Fault::ShareWithoutLooking,
            Fault::UnshareWithoutExchange,
            Fault::RelaxedRelease,
        ],
        || {
            let shared = Arc::new((TokenWord::new(), UnsafeCell::new([0, 0])));
            let readers = [(); 2].map(|()| {
                let shared = shared.clone();
                thread::spawn(move || {
                    // One try: loom does not follow loops whose end is up to another thread.
                    if shared.0.try_share().is_err() {
                        return;
                    }
                    // SAFETY: loom checks the access; nobody writes while the token is shared.
                    shared.1.with(|pair| {
                        let [one, other] = unsafe { *pair };
                        assert_eq!(one, other);
                    });
                    shared.0.release_shared();
                })
            });
            if shared.0.try_take(CPUS[0]).is_ok() {
                // SAFETY: loom checks the access; nobody else looks while the token is held.
                shared.1.with_mut(|pair| unsafe { *pair = [1, 1] });
                shared.0.release();
            }
            for reader in readers {
                reader.join().unwrap();
            }
            assert!(!shared.0.is_held(), "all have left");
        },
    );
}

#[test]
fn trap_4_a_waiter_that_the_holders_cpu_has_answered_finds_the_token_given_back() {
    // The holder's CPU answers between two polls, and holds nothing there. A lost question or answer is a deadlock.
    const ASKED: u64 = 1;
    const ENDED: u64 = 2;
    check(&[Fault::HaltWithoutCheck], || {
        let shared = Arc::new((
            TokenWord::new(),
            Inbox::new(),
            [Doorbell::default(), Doorbell::default()],
        ));
        let theirs = shared.clone();
        let holder = thread::spawn(move || {
            let (word, inbox, [mine, other]) = &*theirs;
            if word.try_take(CPUS[1]).is_ok() {
                word.release();
            }
            let mut seen = 0;
            while seen & ENDED == 0 {
                let bits = inbox.collect();
                if bits & ASKED != 0 {
                    other.ring();
                }
                seen |= bits;
                if bits == 0 && inbox.try_halt() {
                    mine.sleep();
                }
            }
        });
        let (word, inbox, [other, mine]) = &*shared;
        let tell = |bit| {
            if inbox.tell(bit) {
                other.ring();
            }
        };
        if word.try_take(CPUS[0]).is_err() {
            tell(ASKED);
            mine.sleep();
            word.try_take(CPUS[0])
                .expect("given back before the answer");
        }
        word.release();
        tell(ENDED);
        holder.join().unwrap();
    });
}
