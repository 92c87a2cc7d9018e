//! The token word.

use super::*;

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
