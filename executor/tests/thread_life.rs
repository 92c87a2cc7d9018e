//! How threads are ordered, end, and are seen by others.

use executor::{
    Builder, CpuId, Message, Port, Priority, Thread, Token, critical, current, current_cpu, exit,
    hosted, run_on, send_to, set_priority, sleep, spawn, spawn_on, yield_now,
};
use futures_util::future::{Either, select};
use std::{
    cell::RefCell,
    future::{pending, poll_fn, ready},
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

mod later;

use later::Later;

type Log = Rc<RefCell<Vec<&'static str>>>;

/// Waits until somebody wakes this thread, then says so.
fn sleeper(log: &Log, builder: Builder, name: &'static str) -> executor::JoinHandle<()> {
    let log = log.clone();
    builder.spawn(async move {
        let mut woken = false;
        poll_fn(|_| match std::mem::replace(&mut woken, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        log.borrow_mut().push(name);
    })
}

#[test]
fn the_second_key_orders_what_is_woken_and_equals_take_turns() {
    hosted::run(1, || async {
        let log = Log::default();
        let make = |name, key| sleeper(&log, Builder::new(name).user_priority(key), name);
        let threads = [
            make("low", 1),
            make("high", 9),
            make("mid", 5),
            make("mid too", 5),
            make("none", 0),
            make("high too", 9),
        ];
        yield_now().await;
        for thread in &threads {
            thread.thread().wake();
        }
        for thread in threads {
            thread.await;
        }
        assert_eq!(
            log.take(),
            ["high", "high too", "mid", "mid too", "low", "none"]
        );
    });
}

#[test]
fn trap_18_threads_of_one_priority_all_progress_whatever_their_second_key() {
    hosted::run(1, || async {
        let log = Log::default();
        let threads = [("a", 1), ("b", 100), ("c", 50)].map(|(name, key)| {
            let log = log.clone();
            Builder::new(name).user_priority(key).spawn(async move {
                for _ in 0..3 {
                    log.borrow_mut().push(name);
                    yield_now().await;
                }
            })
        });
        for thread in threads {
            thread.await;
        }
        assert_eq!(log.take(), ["b", "c", "a", "b", "c", "a", "b", "c", "a"]);
    });
}

#[test]
fn trap_19_a_thread_that_wakes_itself_runs_once_more_behind_its_equals() {
    hosted::run(1, || async {
        let log = Log::default();
        let (ours, theirs) = (log.clone(), log.clone());
        let first = spawn("first", async move {
            ours.borrow_mut().push("first");
            for _ in 0..3 {
                Thread::current().wake();
            }
            let mut polls = 0;
            poll_fn(|_| {
                polls += 1;
                if polls == 1 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            ours.borrow_mut().push("first again");
            Thread::current().account()
        });
        let second = spawn("second", async move { theirs.borrow_mut().push("second") });
        second.await;
        let account = first.await;
        assert_eq!(log.take(), ["first", "second", "first again"]);
        assert_eq!((account.polls, account.wakes), (2, 4));
    });
}

#[test]
fn a_new_priority_moves_a_queued_thread() {
    hosted::run(1, || async {
        let log = Log::default();
        let make = |name| sleeper(&log, Builder::new(name).priority(Priority::USER), name);
        let threads = ["a", "b", "c"].map(make);
        let all = threads.each_ref().map(|thread| thread.thread());
        set_priority(Priority::IDLE);
        yield_now().await;
        set_priority(Priority::MAX);
        for thread in &all {
            thread.wake();
        }
        all[1].set_priority(Priority::KERNEL);
        all[2].set_priority(Priority::IDLE);
        all[0].set_priority(Priority::IDLE);
        set_priority(Priority::new(0).expect("0 to 31"));
        for thread in threads {
            thread.await;
        }
        assert_eq!(log.take(), ["b", "c", "a"]);
    });
}

#[test]
#[should_panic(expected = "panicked")]
fn to_set_the_priority_of_another_cpus_thread_panics() {
    hosted::run(2, || async {
        let thread = spawn_on(CpuId(1), "far", pending::<()>).thread();
        thread.set_priority(Priority::MAX);
    });
}

/// Says that it was dropped, where.
struct Dropped(&'static str, Arc<Mutex<Vec<(&'static str, CpuId)>>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let at = current_cpu();
        self.1.lock().expect("no panic").push((self.0, at));
    }
}

#[test]
fn an_exit_drops_what_the_thread_has_on_its_own_cpu_then_tells_who_joins() {
    hosted::run(2, || async {
        let drops = Arc::new(Mutex::new(Vec::new()));
        let theirs = drops.clone();
        let handle = spawn_on(CpuId(1), "deep", move || async move {
            async fn deeper(drops: Arc<Mutex<Vec<(&'static str, CpuId)>>>) {
                let _inner = Dropped("inner", drops);
                let token = Token::new("held at the end");
                token
                    .hold(async |_| {
                        let _section = critical::enter();
                        exit(7u32).await;
                    })
                    .await;
            }
            let _outer = Dropped("outer", theirs.clone());
            deeper(theirs).await;
            0u32
        });
        let thread = handle.thread();
        assert_eq!(handle.await, 7);
        let seen = drops.lock().expect("no panic").clone();
        assert_eq!(seen, [("inner", CpuId(1)), ("outer", CpuId(1))]);
        assert!(thread.has_ended());
        // Neither its section nor its token is in force on the CPU that it has left.
        let after = spawn_on(CpuId(1), "after", || async { critical::is_open() });
        assert!(!after.await);
        assert_eq!(run_on(CpuId(1), |cpu| cpu.threads().len()).await, 0);
    });
}

#[test]
fn a_thread_that_ends_in_the_poll_that_exits_ends_by_its_return() {
    hosted::run(1, || async {
        let output = spawn("both", async {
            match select(pin!(exit(1u32)), pin!(ready(2u32))).await {
                Either::Left((never, _)) => match never {},
                Either::Right((output, _)) => output,
            }
        });
        assert_eq!(output.await, 2);
        // What was given up is not given to the next.
        assert_eq!(spawn("next", async { 4u8 }).await, 4);
    });
}

#[test]
fn trap_21_a_thread_that_has_ended_can_be_held_woken_and_read() {
    hosted::run(2, || async {
        let token = Arc::new(());
        let theirs = token.clone();
        let handle = spawn_on(CpuId(1), "short", move || async move {
            yield_now().await;
            drop(theirs);
        });
        let thread = handle.thread();
        handle.await;
        assert_eq!(Arc::strong_count(&token), 1, "its future is gone");
        for _ in 0..1000 {
            thread.wake();
            spawn_on(CpuId(1), "reuse", || async {}).await;
        }
        assert!(thread.has_ended());
        assert_eq!(thread.account().polls, 2);
        assert_eq!((thread.name(), thread.cpu()), ("short", Some(CpuId(1))));
    });
}

#[test]
fn a_wake_that_overtakes_a_new_thread_waits_for_it() {
    hosted::run(3, || async {
        let stage = Arc::new(AtomicU32::new(0));
        let busy = stage.clone();
        let held = spawn_on(CpuId(1), "busy", move || async move {
            busy.store(1, Ordering::Release);
            while busy.load(Ordering::Acquire) != 2 {
                std::thread::yield_now();
            }
        });
        while stage.load(Ordering::Acquire) == 0 {
            yield_now().await;
        }
        // It waits in cpu 2's backlog, behind more messages than cpu 1 handles at once.
        let made = spawn_on(CpuId(2), "maker", move || async move {
            for _ in 0..512 {
                send_to(current().node().cpu(CpuId(1)), |_| ());
            }
            let new = spawn_on(CpuId(1), "new", || async {
                current()
                    .threads()
                    .iter()
                    .any(|thread| thread.name == "new")
            });
            (new,)
        });
        let (made,) = made.await;
        made.thread().wake();
        stage.store(2, Ordering::Release);
        assert!(made.await, "polled before it had arrived");
        held.await;
    });
}

#[test]
fn what_a_thread_uses_is_counted_and_readable_from_everywhere() {
    hosted::run(2, || async {
        current().node().set_accounting(true);
        let began_ns = executor::now_ns();
        let worker = spawn_on(CpuId(1), "worker", || async {
            for _ in 0..10 {
                let until = executor::now_ns() + 100_000;
                while executor::now_ns() < until {
                    std::hint::spin_loop();
                }
                yield_now().await;
            }
            sleep(Duration::from_millis(1)).await;
        });
        let thread = worker.thread();
        worker.await;
        let account = thread.account();
        assert_eq!((account.polls, account.wakes), (12, 12));
        assert!(account.run_ns >= 1_000_000, "{account:?}");
        let passed_ns = executor::now_ns() - began_ns;
        assert!(account.run_ns < passed_ns, "{account:?} in {passed_ns} ns");
    });
}

struct Note;
impl Message for Note {
    type Reply = ();
}
type Notes = Later<Note>;

#[test]
fn the_messages_that_a_thread_takes_from_ports_are_counted() {
    hosted::run(1, || async {
        let port = Port::new(Notes::default());
        let handle = port.handle();
        let reader = spawn("reader", async move {
            for _ in 0..3 {
                port.receive().await.reply(());
            }
            while port.try_receive().is_none() {
                yield_now().await;
            }
            Thread::current().account().messages
        });
        for _ in 0..3 {
            handle.call(Note).await;
        }
        handle.post(Note);
        assert_eq!(reader.await, 4);
        assert_eq!(Thread::current().account().messages, 0);
    });
}

#[test]
fn a_thread_says_how_large_its_future_is() {
    hosted::run(1, || async {
        let large = spawn("large", async {
            let array = [1u8; 5000];
            yield_now().await;
            std::hint::black_box(&array);
        });
        let listed = current().threads();
        let bytes = listed.iter().find(|thread| thread.name == "large");
        let bytes = bytes.expect("listed").future_bytes;
        assert!((5000..6000).contains(&bytes), "{bytes}");
        large.await;
    });
}

/// Polls a future once and gives it back.
async fn poll_once<F: Future + Unpin>(mut future: F) -> F {
    poll_fn(|context| {
        assert!(pin!(&mut future).poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    future
}

/// A thread of this CPU that gives `output` once `stage` is not 0.
fn waiter<T: 'static>(stage: &Arc<AtomicU32>, output: T) -> executor::JoinHandle<T> {
    let stage = stage.clone();
    spawn("waiter", async move {
        while stage.load(Ordering::Acquire) == 0 {
            sleep(Duration::from_micros(50)).await;
        }
        output
    })
}

#[test]
fn a_handle_that_waits_at_home_waits_on_wherever_it_goes() {
    hosted::run(3, || async {
        for turn in 0..100 {
            let stage = Arc::new(AtomicU32::new(0));
            let handle = poll_once(waiter(&stage, turn)).await;
            // Cpu 1 and 2 ask, each with a waker of its own; then home, where it was known before.
            let handle = spawn_on(CpuId(1), "there", || poll_once(handle)).await;
            let handle = spawn_on(CpuId(2), "and there", || poll_once(handle)).await;
            let handle = poll_once(handle).await;
            if turn % 2 == 0 {
                stage.store(1, Ordering::Release);
                assert_eq!(handle.await, turn);
                continue;
            }
            let theirs = stage.clone();
            let last = spawn_on(CpuId(1), "last", move || async move {
                let handle = poll_once(handle).await;
                theirs.store(1, Ordering::Release);
                handle.await
            });
            assert_eq!(last.await, turn);
        }
    });
}

#[test]
fn a_thread_is_joined_from_another_cpu_whether_it_ends_before_or_after() {
    hosted::run(2, || async {
        for turn in 0..2000 {
            let handle = spawn("short", async move {
                for _ in 0..turn % 5 {
                    yield_now().await;
                }
                turn
            });
            let thread = handle.thread();
            let there = spawn_on(
                CpuId(1),
                "joins",
                move || async move { (handle.await, thread) },
            );
            let (output, thread) = there.await;
            assert_eq!(output, turn);
            assert!(thread.has_ended());
        }
    });
}

#[test]
fn a_handle_that_goes_on_another_cpu_leaves_nothing_of_the_output() {
    hosted::run(2, || async {
        let output = Arc::new(());
        for turn in 0..2000 {
            let theirs = output.clone();
            let handle = spawn("short", async move {
                for _ in 0..turn % 5 {
                    yield_now().await;
                }
                theirs
            });
            let there = spawn_on(CpuId(1), "drops", move || async move { drop(handle) });
            there.await;
        }
        while Arc::strong_count(&output) > 1 {
            yield_now().await;
        }
    });
}

#[test]
fn a_handle_that_goes_in_an_interrupt_handler_lets_its_thread_run_on() {
    hosted::run(1, || async {
        let stage = Arc::new(AtomicU32::new(0));
        let output = Arc::new(());
        let (ended, running) = (
            spawn("ended", ready(output.clone())),
            waiter(&stage, output.clone()),
        );
        yield_now().await;
        let threads = [ended.thread(), running.thread()];
        let handles = RefCell::new(Some((ended, running)));
        current().on_interrupt(7, Rc::new(move || drop(handles.take())));
        current().interrupt(7);
        assert_eq!(Arc::strong_count(&output), 2, "the one that had ended");
        stage.store(1, Ordering::Release);
        while Arc::strong_count(&output) > 1 {
            sleep(Duration::from_micros(50)).await;
        }
        assert!(threads.iter().all(Thread::has_ended));
    });
}

#[test]
fn a_handle_is_polled_and_dropped_by_who_is_no_cpu() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let hosted = hosted::Hosted::start(hosted::Options::default());
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    for turn in 0..200 {
        let mut handle = hosted
            .node()
            .spawn_on(CpuId(0), "joined", move || async move {
                for _ in 0..turn % 5 {
                    yield_now().await;
                }
                turn
            });
        let output = loop {
            match pin!(&mut handle).poll(&mut context) {
                Poll::Ready(output) => break output,
                Poll::Pending => std::thread::park(),
            }
        };
        assert_eq!(output, turn);
        drop(hosted.node().spawn_on(CpuId(0), "left", || async {}));
    }
}

#[test]
fn a_handle_outlives_its_node_and_is_asked_for_nothing() {
    let output = Arc::new(());
    let theirs = output.clone();
    let hosted = hosted::Hosted::start(hosted::Options::default());
    let handles = hosted.block_on(move || async move {
        let done = spawn("done", ready(theirs.clone()));
        yield_now().await;
        let never = spawn("never", async move {
            pending::<()>().await;
            theirs
        });
        (done, poll_once(never).await)
    });
    drop(hosted);
    assert_eq!(Arc::strong_count(&output), 2);
    assert!(handles.0.is_finished() && !handles.1.is_finished());
    drop(handles);
    assert_eq!(Arc::strong_count(&output), 1);
}

#[test]
fn threads_have_numbers_of_their_own_wherever_they_are_made() {
    let numbers = hosted::run(3, || async {
        let make = async || {
            let threads = [(); 300].map(|()| spawn("numbered", async {}));
            threads.each_ref().map(executor::JoinHandle::id).to_vec()
        };
        let there = [1, 2].map(|cpu| spawn_on(CpuId(cpu), "maker", make));
        let mut numbers: Vec<u32> = there.iter().map(executor::JoinHandle::id).collect();
        numbers.extend(make().await);
        for there in there {
            numbers.extend(there.await);
        }
        numbers
    });
    let different: std::collections::BTreeSet<u32> = numbers.iter().copied().collect();
    assert_eq!(different.len(), numbers.len());
}
