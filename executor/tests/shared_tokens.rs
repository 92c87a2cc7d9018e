//! Tokens that are shared, tried, pooled; and who may take what while an interrupt handler runs.

mod steps;

use executor::{
    CpuId, Guarded, Held, Token, TokenPool, critical, current, hold_all, hosted, run_on,
    spawn_movable, spawn_on, timeout, yield_now,
};
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
};
use steps::{LIMIT, Step, hold_on_1, poll_once};

fn panics(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("this must panic");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn trap_3_a_handler_does_not_get_the_token_of_the_thread_it_interrupts() {
    hosted::run(1, || async {
        let (token, free) = (Token::new("interrupted"), Token::new("free"));
        let data = Rc::new((Guarded::new(&token, 0), Guarded::new(&free, 0)));
        let got = Rc::new(Cell::new((false, false)));
        let (theirs, told) = (data.clone(), got.clone());
        current().on_interrupt(
            40,
            Rc::new(move || {
                assert!(critical::is_hard());
                let (held, other) = (theirs.0.token(), theirs.1.token());
                let got = held.try_with(|h| h.with(&theirs.0, |v| *v += 1));
                // One that nobody holds it gets, with the data of that one alone.
                let other = other.try_with(|h| {
                    h.with(&theirs.1, |v| *v += 1);
                    if got.is_none() {
                        panics(|| h.with(&theirs.0, |_| ()));
                    }
                });
                told.set((got.is_some(), other.is_some()));
            }),
        );
        token
            .hold(async |held| {
                current().interrupt(40);
                assert_eq!(got.get(), (false, true));
                held.with(&data.0, |v| assert_eq!(*v, 0));
                assert!(token.is_held(), "the thread still holds it");
                // A message to oneself is run on top of its sender.
                let theirs = token.clone();
                assert!(!run_on(CpuId(0), move |_| theirs.try_with(|_| ()).is_some()).await);
            })
            .await;
        token
            .hold_shared(async |held| {
                current().interrupt(40);
                assert_eq!(got.get(), (false, true));
                held.read(&data.0, |v| assert_eq!(*v, 0));
            })
            .await;
        current().interrupt(40);
        assert_eq!(got.get(), (true, true));
        assert!(!token.is_held() && !free.is_held());
    });
}

#[test]
fn trap_5_shared_may_be_taken_in_either_way_inside_exclusive_and_inside_shared() {
    hosted::run(1, || async {
        let token = Token::new("modes");
        let guarded = Guarded::new(&token, 5);
        token
            .hold(async |outer| {
                token
                    .hold_shared(async |inner| {
                        inner.read(&guarded, |v| assert_eq!(*v, 5));
                        // The outer scope's hold is as strong as before.
                        outer.with(&guarded, |v| *v += 1);
                        yield_now().await;
                        inner.read(&guarded, |v| {
                            outer.read(&guarded, |w| assert_eq!((*v, *w), (6, 6)));
                            panics(|| outer.with(&guarded, |_| ()));
                        });
                        outer.with(&guarded, |_| panics(|| inner.read(&guarded, |_| ())));
                    })
                    .await;
                outer.with(&guarded, |v| *v += 1);
            })
            .await;
        token
            .hold_shared(async |outer| {
                token
                    .hold_shared(async |inner| inner.read(&guarded, |v| assert_eq!(*v, 7)))
                    .await;
                assert!(
                    token.is_held(),
                    "the inner scope gave back what it did not take"
                );
                outer.read(&guarded, |v| assert_eq!(*v, 7));
            })
            .await;
        assert!(!token.is_held());
    });
}

#[test]
fn trap_5_exclusive_inside_shared_panics_and_leaves_nothing_held() {
    hosted::run(1, || async {
        let (token, other) = (Token::new("modes"), Token::new("other"));
        let guarded = Guarded::new(&token, 5);
        token
            .hold_shared(async |_| {
                poll_fn(|context| {
                    let mut inner = pin!(token.hold(async |_| ()));
                    let said = panics(|| _ = inner.as_mut().poll(context));
                    assert!(
                        said.contains("token modes cannot be held exclusively"),
                        "{said}"
                    );
                    let mut both = pin!(hold_all([&other, &token], async |_| ()));
                    panics(|| _ = both.as_mut().poll(context));
                    assert!(!other.is_held(), "taken, and not given back");
                    Poll::Ready(())
                })
                .await;
                assert_eq!(token.try_with(|_| ()), None, "a try just fails");
                assert_eq!(token.try_hold(async |_| ()).await, None);
                assert!(token.is_held());
                other
                    .hold(async |h| {
                        let said = panics(|| h.with(&guarded, |_| ()));
                        assert_eq!(said, "token modes is only shared here");
                    })
                    .await;
            })
            .await;
        assert!(!token.is_held());
        token.hold(async |h| h.with(&guarded, |v| *v += 1)).await;
    });
}

#[test]
fn readers_of_two_cpus_are_inside_at_the_same_time_and_a_writer_is_alone() {
    hosted::run(2, || async {
        let token = Token::new("shared");
        let guarded = Arc::new(Guarded::new(&token, 7));
        let inside: [Step; 2] = Default::default();
        let reader = |me: usize| {
            let (guarded, inside) = (guarded.clone(), inside.clone());
            async move {
                let token = guarded.token();
                token
                    .hold_shared(async |held| {
                        held.read(&guarded, |value| {
                            inside[me].done();
                            assert!(inside[1 - me].is_done_within(LIMIT), "alone");
                            assert_eq!(*value, 7);
                        });
                        assert_eq!(token.try_with(|_| ()), None);
                    })
                    .await;
            }
        };
        let theirs = reader(1);
        let other = spawn_on(CpuId(1), "reader", move || theirs);
        reader(0).await;
        other.await;
        let end = Step::default();
        let holder = hold_on_1(&token, &end).await;
        let mut late = pin!(token.hold_shared(async |h| h.read(&guarded, |v| *v)));
        assert!(poll_once(late.as_mut()).await.is_pending());
        end.done();
        assert_eq!(late.await, 7);
        holder.await;
        assert_eq!((token.counts().taken, token.counts().shared), (1, 3));
    });
}

#[test]
fn trap_8_the_new_forms_hold_nothing_when_dropped_at_any_poll() {
    hosted::run(1, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        for polls in 0..6 {
            let mut scopes: [Pin<Box<dyn Future<Output = ()>>>; 3] = [
                Box::pin(async {
                    x.hold_shared(async |_| {
                        yield_now().await;
                        y.hold(async |_| yield_now().await).await;
                        yield_now().await;
                    })
                    .await;
                }),
                Box::pin(async {
                    let ran = x.try_hold(async |_| {
                        yield_now().await;
                        x.hold_shared(async |_| yield_now().await).await;
                        yield_now().await;
                    });
                    assert_eq!(ran.await, Some(()));
                }),
                Box::pin(async {
                    hold_all([x.shared(), y.exclusive()], async |_| {
                        yield_now().await;
                        x.hold_shared(async |_| yield_now().await).await;
                        yield_now().await;
                    })
                    .await;
                }),
            ];
            for scope in &mut scopes {
                for _ in 0..polls {
                    if poll_once(scope.as_mut()).await.is_ready() {
                        break;
                    }
                    assert!(!x.is_held() && !y.is_held(), "held over an await");
                }
            }
            drop(scopes);
            assert!(!x.is_held() && !y.is_held());
        }
    });
}

#[test]
fn a_try_takes_the_token_now_or_not_at_all_and_waits_only_after_an_await() {
    hosted::run(2, || async {
        let token = Token::new("tried");
        let guarded = Arc::new(Guarded::new(&token, 0));
        let end = Step::default();
        let holder = hold_on_1(&token, &end).await;
        let ran = Cell::new(false);
        assert_eq!(token.try_with(|_| ran.set(true)), None);
        assert_eq!(token.try_hold(async |_| ran.set(true)).await, None);
        assert!(!ran.get());
        end.done();
        holder.await;
        assert_eq!(token.try_with(|held| held.with(&guarded, |v| *v)), Some(0));
        let (end, theirs) = (Step::default(), guarded.clone());
        let mut tried = pin!(token.try_hold(async |held| {
            held.with(&guarded, |v| *v += 1);
            yield_now().await;
            held.with(&guarded, |v| *v)
        }));
        assert!(poll_once(tried.as_mut()).await.is_pending());
        assert!(!token.is_held());
        let holder = hold_on_1(&token, &end).await;
        assert!(poll_once(tried.as_mut()).await.is_pending(), "it waits");
        let other = spawn_on(CpuId(1), "other", move || async move {
            let token = theirs.token();
            token.try_with(|h| h.with(&theirs, |v| *v += 10))
        });
        end.done();
        assert!(matches!(tried.await, Some(1 | 11)));
        holder.await;
        other.await;
    });
}

#[test]
fn trap_9_two_objects_of_a_pool_may_have_one_token_and_both_can_be_taken() {
    hosted::run(2, || async {
        let pool = Arc::new(TokenPool::new("objects", 4));
        for id in 0..8 {
            assert_eq!(pool.token(id).id(), pool.token(id + 4).id());
            assert_ne!(pool.token(id).id(), pool.token(id + 1).id());
        }
        let objects = Arc::new([3, 7].map(|id| Guarded::new(pool.token(id), id)));
        let work = |pool: Arc<TokenPool>, objects: Arc<[Guarded<u64>; 2]>| async move {
            let (one, other) = (pool.token(3), pool.token(7));
            let swap = |held: &Held<'_>| {
                held.with(&objects[0], |x| {
                    held.with(&objects[1], |y| std::mem::swap(x, y))
                });
            };
            for _ in 0..1000 {
                one.hold(async |_| {
                    other.hold(async |held| swap(&held)).await;
                    yield_now().await;
                })
                .await;
                hold_all([one, other], async |held| swap(&held)).await;
                // However they are named, the strongest claim counts.
                hold_all([one.shared(), other.exclusive()], async |held| {
                    swap(&held);
                    yield_now().await;
                    held.read(&objects[0], |x| {
                        held.read(&objects[1], |y| assert_eq!(x + y, 10))
                    });
                })
                .await;
            }
        };
        let theirs = work(pool.clone(), objects.clone());
        let other = spawn_on(CpuId(1), "other", move || theirs);
        timeout(LIMIT, work(pool.clone(), objects))
            .await
            .expect("hangs");
        other.await;
        assert!((0..4).all(|id| !pool.token(id).is_held()));
    });
}

#[test]
fn hold_all_mixes_ways_and_backs_out_of_all_of_them() {
    hosted::run(2, || async {
        let (x, y) = (Token::new("x"), Token::new("y"));
        let end = Step::default();
        let holder = hold_on_1(&y, &end).await;
        let mut both = pin!(hold_all([x.shared(), y.shared()], async |_| x.is_held()));
        assert!(poll_once(both.as_mut()).await.is_pending());
        assert!(!x.is_held(), "taken, and not given back");
        end.done();
        assert!(both.await);
        holder.await;

        // A factor that few change, sums that all add it to: what is read in one scope fits together.
        let data = Arc::new((
            Guarded::new(&x, (1u64, 1u64)),
            Guarded::new(&y, (0u64, 0u64)),
        ));
        type Pair = Guarded<(u64, u64)>;
        let work = |data: Arc<(Pair, Pair)>| async move {
            let (x, y) = (data.0.token().clone(), data.1.token().clone());
            for round in 0..3000 {
                if round % 10 == 0 {
                    x.hold(async |h| h.with(&data.0, |(a, b)| (*a, *b) = (*a + 1, *b + 1)))
                        .await;
                }
                hold_all([y.exclusive(), x.shared()], async |h| {
                    h.read(&data.0, |(a, b)| {
                        assert_eq!(a, b);
                        h.with(&data.1, |(c, d)| (*c, *d) = (*c + *a, *d + *b));
                    });
                    h.read(&data.1, |(c, d)| assert_eq!(c, d));
                })
                .await;
            }
        };
        let theirs = work(data.clone());
        let other = spawn_on(CpuId(1), "other", move || theirs);
        work(data).await;
        other.await;
        assert!(!x.is_held() && !y.is_held());
    });
}

#[test]
fn a_thread_that_moves_gives_its_token_back_and_takes_it_again_where_it_is() {
    hosted::run(2, || async {
        let token = Token::new("moving");
        let guarded = Arc::new(Guarded::new(&token, Vec::new()));
        let theirs = guarded.clone();
        let moved = spawn_movable("mover", move |mobile| async move {
            let token = theirs.token().clone();
            token
                .hold(async |held| {
                    for cpu in [1, 0, 1] {
                        mobile.migrate_to(CpuId(cpu)).await;
                        held.with(&theirs, |log| log.push(executor::current_cpu().0));
                    }
                })
                .await;
        });
        moved.await;
        token
            .hold(async |h| h.with(&guarded, |log| assert_eq!(*log, [1, 0, 1])))
            .await;
    });
}
