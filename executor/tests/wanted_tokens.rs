//! Who waits for a token gets it: nobody is passed over for ever, and who has gone is not waited for.

mod steps;

use executor::{CpuId, Token, hold_all, hosted, spawn_on, timeout, yield_now};
use std::{
    future::Future,
    hint::spin_loop,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use steps::{LIMIT, Step, hold_on_1, poll_once};

#[test]
fn trap_7_a_writer_gets_in_though_readers_hand_the_token_over_to_each_other() {
    // A reader does not leave before the other one is in, as long as that comes at all: the token is never free, unless
    // readers let the writer pass.
    hosted::run(3, || async {
        let token = Token::new("storm");
        let done = Step::default();
        let entries = Arc::new([const { AtomicU32::new(0) }; 2]);
        let reader = |me: usize| {
            let (token, done, entries) = (token.clone(), done.clone(), entries.clone());
            spawn_on(CpuId(me as u16 + 1), "reader", move || async move {
                let entered = |reader: usize| entries[reader].load(Ordering::Acquire);
                while !done.is_done() {
                    token
                        .hold_shared(async |_| {
                            entries[me].fetch_add(1, Ordering::AcqRel);
                            let seen = entered(1 - me);
                            let until = Instant::now() + Duration::from_millis(50);
                            while entered(1 - me) == seen && !done.is_done() {
                                if Instant::now() > until {
                                    break;
                                }
                                spin_loop();
                            }
                        })
                        .await;
                }
            })
        };
        let readers = [reader(0), reader(1)];
        while entries
            .iter()
            .any(|count| count.load(Ordering::Acquire) < 10)
        {
            yield_now().await;
        }
        let writer = timeout(Duration::from_secs(20), token.hold(async |_| ()));
        let got_in = writer.await.is_ok();
        done.done();
        for reader in readers {
            reader.await;
        }
        assert!(got_in, "starved by {entries:?} readers");
    });
}

#[test]
fn trap_7_a_reader_lets_a_writer_pass_unless_it_holds_another_token() {
    hosted::run(3, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        let (end, begun) = (Step::default(), Step::default());
        let (theirs, until, told) = (x.clone(), end.clone(), begun.clone());
        let sharer = spawn_on(CpuId(1), "sharer", move || async move {
            theirs
                .hold_shared(async |_| {
                    told.done();
                    assert!(until.is_done_within(LIMIT));
                })
                .await;
        });
        begun.wait().await;
        // The writer wants both, so that a reader that holds Y and lets it pass on X would wait for ever, as it would.
        let (tx, ty) = (x.clone(), y.clone());
        let writer = spawn_on(CpuId(2), "writer", move || async move {
            tx.hold(async |_| ty.hold(async |_| yield_now().await).await)
                .await;
        });
        timeout(LIMIT, async {
            while poll_once(pin!(x.hold_shared(async |_| ())))
                .await
                .is_ready()
            {
                yield_now().await;
            }
        })
        .await
        .expect("a writer that has waited for long is let pass");
        assert!(
            poll_once(pin!(x.hold_shared(async |_| ())))
                .await
                .is_pending()
        );
        y.hold(async |_| {
            let inner = poll_once(pin!(x.hold_shared(async |_| ()))).await;
            assert!(inner.is_ready(), "it holds Y");
        })
        .await;
        assert_eq!(x.counts().taken, 0, "the writer still waits");
        end.done();
        timeout(LIMIT, async {
            sharer.await;
            writer.await;
        })
        .await
        .expect("deadlock");
        assert!(!x.is_held() && !y.is_held());
    });
}

/// Takes of another CPU that a waiter may have to see: the one in progress, and those that its own CPU is late for.
const FEW: u32 = 8;

/// How often another CPU takes the token until a waiter has got it, round by round, until enough rounds were good. Not all
/// are, for the host stops each of our CPUs now and then. The other CPU gives the token back and takes it again at once, in
/// each poll (`yields`) or in one.
fn takes_before_a_waiter(yields: bool) -> Vec<u32> {
    hosted::run(2, move || async move {
        let mut rounds = Vec::new();
        while rounds.len() < 60 && rounds.iter().filter(|takes| **takes <= FEW).count() < 5 {
            let token = Token::new("hammered");
            let (taken, done) = (Arc::new(AtomicU32::new(0)), Step::default());
            let (theirs, count, until) = (token.clone(), taken.clone(), done.clone());
            let hammer = spawn_on(CpuId(1), "hammer", move || async move {
                while !until.is_done() && count.load(Ordering::Relaxed) < 300 {
                    theirs
                        .hold(async |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                            until.is_done_within(Duration::from_millis(1));
                        })
                        .await;
                    if yields {
                        yield_now().await;
                    }
                }
            });
            // The other CPU has waited for the token itself, and for long. That earned it one hold, and no more.
            token
                .hold(async |_| {
                    let until = Instant::now() + LIMIT;
                    while token.counts().contended == 0 && Instant::now() < until {
                        spin_loop();
                    }
                    done.is_done_within(Duration::from_millis(3));
                })
                .await;
            while taken.load(Ordering::Relaxed) < 3 {
                yield_now().await;
            }
            let before = taken.load(Ordering::Relaxed);
            let after = token.hold(async |_| taken.load(Ordering::Relaxed)).await;
            done.done();
            hammer.await;
            rounds.push(after - before);
        }
        rounds
    })
}

#[test]
fn a_waiter_is_not_starved_by_a_cpu_that_takes_the_token_again_and_again() {
    for yields in [true, false] {
        let rounds = takes_before_a_waiter(yields);
        assert!(
            rounds.len() < 60,
            "takes before the waiter got it: {rounds:?} (yields: {yields})"
        );
    }
}

#[test]
fn trap_8_a_dropped_wait_leaves_no_hold_and_no_wish() {
    hosted::run(2, || async {
        type Scope<'t> = Pin<Box<dyn Future<Output = ()> + 't>>;
        type Make = dyn for<'t> Fn(&'t Token, &'t Token) -> Scope<'t>;
        let (x, y) = (Token::new("x"), Token::new("y"));
        let make: [&Make; 4] = [
            &|x, _| Box::pin(x.hold(async |_| ())),
            &|x, _| Box::pin(x.hold_shared(async |_| ())),
            &|x, y| Box::pin(hold_all([y.shared(), x.exclusive()], async |_| ())),
            &|x, y| Box::pin(y.hold(async |_| x.hold(async |_| ()).await)),
        ];
        for form in make {
            // Before it wants the token, while it does, and while it sleeps for an answer.
            for polls in [1, 10, 600, 1500, 3000, 4500] {
                let end = Step::default();
                let holder = hold_on_1(&x, &end).await;
                let mut scope = form(&x, &y);
                for _ in 0..polls {
                    assert!(poll_once(scope.as_mut()).await.is_pending());
                    assert!(!y.is_held(), "all or none");
                    yield_now().await;
                }
                drop(scope);
                end.done();
                holder.await;
                assert!(!x.is_held() && !y.is_held());
                let theirs = x.clone();
                let at_once = spawn_on(CpuId(1), "next", move || async move {
                    let shared = poll_once(pin!(theirs.hold_shared(async |_| ()))).await;
                    let alone = poll_once(pin!(theirs.hold(async |_| ()))).await;
                    shared.is_ready() && alone.is_ready()
                });
                assert!(at_once.await, "lets pass who has gone, after {polls} polls");
            }
        }
    });
}

#[test]
fn a_wish_that_nobody_comes_for_holds_others_up_only_for_a_while() {
    // A scope that is kept and not polled any more wants the token for ever.
    hosted::run(2, || async {
        let token = Token::new("forgotten");
        let end = Step::default();
        let holder = hold_on_1(&token, &end).await;
        let mut forgotten = Box::pin(token.hold(async |_| ()));
        for _ in 0..2000 {
            assert!(poll_once(forgotten.as_mut()).await.is_pending());
        }
        end.done();
        holder.await;
        for shared in [true, false] {
            let theirs = token.clone();
            let other = spawn_on(CpuId(1), "other", move || async move {
                let mut first = if shared {
                    Box::pin(theirs.hold_shared(async |_| ())) as Pin<Box<dyn Future<Output = ()>>>
                } else {
                    Box::pin(theirs.hold(async |_| ()))
                };
                let lets_pass = poll_once(first.as_mut()).await.is_pending();
                if lets_pass {
                    timeout(LIMIT, first).await.expect("held up for ever");
                }
                lets_pass
            });
            assert_eq!(
                other.await,
                shared,
                "the wish goes with the first that overrules it"
            );
        }
        forgotten.await;
    });
}
