//! Wakes against polls, moves and the end of a thread; tokens.

use super::*;
use executor::{Guarded, Token, current_cpu, spawn_movable, spawn_on, yield_now};
use shuttle::sync::atomic::AtomicUsize;
use std::{
    future::poll_fn,
    task::{Poll, Waker},
};

/// A count that a thread waits for, with wakers that stay behind in its wakers' hands.
#[derive(Default)]
struct Count {
    reached: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Count {
    fn add(&self) {
        self.reached.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait_for(&self, count: usize) {
        poll_fn(|context| {
            *self.waker.lock().unwrap() = Some(context.waker().clone());
            if self.reached.load(Ordering::SeqCst) >= count {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

#[test]
fn trap_20_a_wake_finds_its_thread_wherever_it_polls_moves_or_ends() {
    check(
        &[Fault::HaltWithoutCheck, Fault::ArrivalBeforeOwner],
        || {
            run(3, async || {
                let count = Arc::new(Count::default());
                let theirs = count.clone();
                // Home and away: the second move goes where the first came from.
                let mover = spawn_movable("mover", move |mobile| async move {
                    for (turn, cpu) in [1, 0, 2, 1].into_iter().enumerate() {
                        mobile.migrate_to(CpuId(cpu)).await;
                        assert_eq!(current_cpu(), CpuId(cpu), "trap 74: it runs on its owner");
                        theirs.wait_for(turn + 1).await;
                        assert_eq!(
                            current_cpu(),
                            CpuId(cpu),
                            "trap 74: it is woken on its owner"
                        );
                    }
                    theirs
                });
                let wakers = [1, 2].map(|cpu| {
                    let count = count.clone();
                    spawn_on(CpuId(cpu), "waker", move || async move {
                        for _ in 0..2 {
                            count.add();
                            yield_now().await;
                        }
                        // One more than it waits for: to a thread that ends, or has ended.
                        count.add();
                    })
                });
                let theirs = mover.await;
                assert!(theirs.reached.load(Ordering::SeqCst) >= 4);
                for waker in wakers {
                    waker.await;
                }
            });
        },
    );
}

#[test]
fn a_token_excludes_and_its_release_lets_everybody_on() {
    check(&[Fault::TakeWithoutExchange], || {
        run(3, async || {
            let token = Token::new("shared");
            let shared = Arc::new((Guarded::new(&token, 0), token, AtomicUsize::new(0)));
            let threads = [0, 1, 2].map(|cpu| {
                let shared = shared.clone();
                spawn_on(CpuId(cpu), "holder", move || async move {
                    let (guarded, token, inside) = &*shared;
                    token
                        .hold(async |held| {
                            for _ in 0..2 {
                                held.with(guarded, |count| {
                                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "trap 1");
                                    *count += 1;
                                    inside.fetch_sub(1, Ordering::SeqCst);
                                });
                                yield_now().await;
                            }
                        })
                        .await;
                })
            });
            for thread in threads {
                thread.await;
            }
            let (guarded, token, _) = &*shared;
            let count = token.hold(async |held| held.with(guarded, |count| *count));
            assert_eq!(count.await, 6);
        });
    });
}

#[test]
fn who_joins_from_another_cpu_is_told_and_a_handle_that_goes_there_leaves_nothing() {
    check(&[Fault::JoinWithoutLooking], || {
        run(2, async || {
            let output = Arc::new(());
            let [joined, left] = [output.clone(), output.clone()].map(|output| {
                executor::spawn("ends", async move {
                    yield_now().await;
                    output
                })
            });
            let there = spawn_on(CpuId(1), "there", move || async move {
                drop(left);
                joined.await;
            });
            there.await;
            while Arc::strong_count(&output) > 1 {
                yield_now().await;
            }
        });
    });
}
