//! Timers of whole CPUs: what the hardware is set to, who is woken, and where a sleep goes with its thread.
//!
//! The clock is a number that the test sets, and CPUs go a step at a time. The wheel itself has its tests beside it.

use executor::{
    Cpu, CpuId, Interval, Node, Platform, Sleep, current_cpu, hosted, interval, now_ns, run_on,
    sleep, sleep_until, spawn, spawn_movable, timeout, yield_now,
};
use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

const NEVER: u64 = u64::MAX;

/// Two CPUs whose clock stands until it is set, and whose hardware timers only note what they are set to.
struct Manual {
    now_ns: AtomicU64,
    armed_ns: [AtomicU64; 2],
}

impl Platform for Manual {
    fn clock_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }
    fn doorbell(&self, _: CpuId) {}
    fn idle(&self, _: &Cpu) {}
    fn set_timer(&self, deadline_ns: Option<u64>) {
        let armed = &self.armed_ns[current_cpu().index()];
        armed.store(deadline_ns.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

struct Machine {
    platform: Arc<Manual>,
    node: Arc<Node>,
}

impl Machine {
    fn new() -> Self {
        let platform = Arc::new(Manual {
            now_ns: AtomicU64::new(1),
            armed_ns: [NEVER, NEVER].map(AtomicU64::new),
        });
        let node = Node::new(2, platform.clone());
        Self { platform, node }
    }

    /// Does `work` on a CPU.
    fn on<R>(&self, cpu: u16, work: impl FnOnce(&Cpu) -> R) -> R {
        let cpu = self.node.cpu(CpuId(cpu));
        // SAFETY: this host thread alone enters the CPUs of this node, one at a time.
        unsafe { cpu.enter() };
        let result = work(cpu);
        cpu.leave();
        result
    }

    /// Runs a CPU until it sleeps, and gives what its hardware timer is set to then.
    fn rest(&self, cpu: u16) -> u64 {
        self.on(cpu, |cpu| {
            while cpu.step() {}
            let began_ns = cpu.halt().expect("nothing came in");
            let armed_ns = self.platform.armed_ns[cpu.id().index()].load(Ordering::Relaxed);
            let armed = (armed_ns != NEVER).then_some(armed_ns);
            // SAFETY: this host thread drives both CPUs, and neither runs.
            assert_eq!(unsafe { cpu.left_behind(armed) }, None);
            cpu.wake(began_ns);
            armed_ns
        })
    }

    /// Sets the clock, and has the hardware timer of a CPU run out if it is time.
    fn advance(&self, cpu: u16, now_ns: u64) -> u64 {
        self.platform.now_ns.store(now_ns, Ordering::Relaxed);
        let armed_ns = &self.platform.armed_ns[usize::from(cpu)];
        if armed_ns.load(Ordering::Relaxed) <= now_ns {
            armed_ns.store(NEVER, Ordering::Relaxed);
            self.on(cpu, |cpu| assert!(cpu.interrupt_timer().is_none()));
        }
        self.rest(cpu)
    }

    fn fired(&self, cpu: u16) -> u64 {
        self.node.cpu(CpuId(cpu)).stats().timers_fired.get()
    }
}

/// Counts wakes.
#[derive(Default)]
struct Bell(AtomicU32);

impl Bell {
    fn rung(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(sleep: &mut Sleep, bell: &Arc<Bell>) -> Poll<()> {
    let waker = Waker::from(bell.clone());
    Pin::new(sleep).poll(&mut Context::from_waker(&waker))
}

#[test]
fn the_hardware_is_set_to_the_earliest_deadline_and_to_nothing_if_there_is_none() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let mut sleeps: Vec<_> = [7000, 3000, 5000].map(sleep_until).into();
    machine.on(0, |_| {
        for sleep in &mut sleeps {
            assert!(poll(sleep, &bell).is_pending());
        }
    });
    assert_eq!(machine.rest(0), 3000);
    machine.on(0, |_| drop(sleeps.remove(1)));
    assert_eq!(machine.rest(0), 5000, "not for one that was cancelled");
    assert_eq!(machine.advance(0, 4999), 5000);
    assert_eq!(bell.rung(), 0, "none is early");
    assert_eq!(machine.advance(0, 5000), 7000);
    assert_eq!((bell.rung(), machine.fired(0)), (1, 1));
    machine.on(0, |_| sleeps.clear());
    assert_eq!(machine.rest(0), NEVER);
}

#[test]
fn a_busy_cpu_is_interrupted_for_a_cancelled_timer_and_set_to_the_next() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let armed = &machine.platform.armed_ns[0];
    machine.on(0, |cpu| {
        let interrupt = |now_ns| {
            machine.platform.now_ns.store(now_ns, Ordering::Relaxed);
            armed.store(NEVER, Ordering::Relaxed);
            assert!(cpu.interrupt_timer().is_none());
            while cpu.step() {}
            armed.load(Ordering::Relaxed)
        };
        let mut sleeps = [1000, 1500, 2000].map(sleep_until);
        for sleep in &mut sleeps {
            assert!(poll(sleep, &bell).is_pending());
        }
        let [first, _second, third] = sleeps;
        drop(first);
        assert_eq!(armed.load(Ordering::Relaxed), 1000, "left as it was");
        assert_eq!(interrupt(1000), 1500);
        assert_eq!(bell.rung(), 0);
        assert_eq!(interrupt(1500), 2000);
        assert_eq!((bell.rung(), machine.fired(0)), (1, 1));
        drop(third);
        assert_eq!(interrupt(1600), NEVER, "there is none");
    });
}

#[test]
fn threads_with_one_deadline_run_in_the_order_in_which_they_went_to_sleep() {
    let machine = Machine::new();
    let log: Rc<RefCell<Vec<u32>>> = Rc::default();
    machine.on(0, |_| {
        for number in 0..200 {
            let log = log.clone();
            spawn("sleeper", async move {
                // Half of them come when the deadline is near.
                sleep_until(number % 2 * 1_000_000).await;
                sleep_until(1_000_100).await;
                log.borrow_mut().push(number as u32);
            })
            .detach();
        }
    });
    for now_ns in [1, 1_000_000, 1_000_099] {
        machine.advance(0, now_ns);
        assert!(log.borrow().is_empty());
    }
    assert_eq!(machine.advance(0, 1_000_100), NEVER);
    let expected = (0..200).step_by(2).chain((1..200).step_by(2));
    assert_eq!(log.take(), expected.collect::<Vec<_>>());
}

#[test]
fn a_sleep_that_is_taken_to_another_cpu_waits_there() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let mut sleep = sleep_until(1000);
    assert!(machine.on(0, |_| poll(&mut sleep, &bell)).is_pending());
    assert_eq!(machine.rest(0), 1000);
    assert!(machine.on(1, |_| poll(&mut sleep, &bell)).is_pending());
    assert_eq!((machine.rest(0), machine.rest(1)), (NEVER, 1000));
    machine.advance(0, 1000);
    machine.advance(1, 1000);
    assert_eq!((machine.fired(0), machine.fired(1)), (0, 1));
    assert!(machine.on(1, |_| poll(&mut sleep, &bell)).is_ready());
}

#[test]
fn a_sleep_that_is_reset_elsewhere_waits_where_it_is_polled_next() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let mut sleep = sleep_until(1000);
    assert!(machine.on(0, |_| poll(&mut sleep, &bell)).is_pending());
    machine.on(1, |_| sleep.reset(2000));
    assert_eq!(machine.rest(0), NEVER);
    assert!(machine.on(1, |_| poll(&mut sleep, &bell)).is_pending());
    assert_eq!(machine.rest(1), 2000);
    machine.on(1, |_| drop(sleep));
}

#[test]
fn a_cancel_that_comes_too_late_leaves_the_next_timer_alone() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let (mut late, mut next) = (sleep_until(1000), sleep_until(9000));
    assert!(machine.on(0, |_| poll(&mut late, &bell)).is_pending());
    machine.rest(0);
    machine.advance(0, 1000);
    // It has fired, nobody has polled it, and what is new takes its room.
    assert!(machine.on(0, |_| poll(&mut next, &bell)).is_pending());
    machine.on(1, |_| drop(late));
    assert_eq!(machine.rest(0), 9000);
    machine.advance(0, 9000);
    assert_eq!(bell.rung(), 2);
}

#[test]
fn a_sleep_that_is_reset_wakes_who_awaits_it_without_another_poll() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let mut sleep = sleep_until(5000);
    assert!(machine.on(0, |_| poll(&mut sleep, &bell)).is_pending());
    machine.on(0, |_| sleep.reset(9000));
    assert_eq!(machine.rest(0), 9000);
    assert_eq!(machine.advance(0, 5000), 9000);
    assert_eq!(bell.rung(), 0);
    machine.on(0, |_| sleep.reset(6000));
    assert_eq!(machine.rest(0), 6000);
    assert_eq!(machine.advance(0, 6000), NEVER);
    assert_eq!(bell.rung(), 1);
    // Fired, but not yet polled: as new.
    machine.on(0, |_| sleep.reset(7000));
    assert!(machine.on(0, |_| poll(&mut sleep, &bell)).is_pending());
    assert_eq!(machine.rest(0), 7000);
    // To the past.
    machine.on(0, |_| sleep.reset(10));
    assert_eq!(machine.advance(0, 6001), NEVER);
    assert_eq!(bell.rung(), 2);
    assert!(machine.on(0, |_| poll(&mut sleep, &bell)).is_ready());
    assert_eq!(sleep.deadline_ns(), 10);
}

#[test]
fn a_sleep_wakes_who_polled_it_last() {
    let machine = Machine::new();
    let (before, last) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut sleep = sleep_until(1000);
    machine.on(0, |_| {
        assert!(poll(&mut sleep, &before).is_pending());
        assert!(poll(&mut sleep, &last).is_pending());
        assert!(poll(&mut sleep, &last).is_pending());
    });
    machine.rest(0);
    machine.advance(0, 1000);
    assert_eq!((before.rung(), last.rung()), (0, 1));
    assert_eq!(Arc::strong_count(&before), 1, "its waker has gone");
    machine.on(0, |_| assert!(poll(&mut sleep, &last).is_ready()));
}

/// A waker that has a sleep of its own, as those of combinators may.
struct Owner(#[expect(dead_code, reason = "goes with its waker")] Mutex<Option<Sleep>>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_may_cancel_another_timer_as_it_goes() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let sleeper = |deadline_ns| {
        let mut theirs = sleep_until(deadline_ns + 500);
        assert!(poll(&mut theirs, &bell).is_pending());
        let waker = Waker::from(Arc::new(Owner(Mutex::new(Some(theirs)))));
        let mut sleep = sleep_until(deadline_ns);
        let polled = Pin::new(&mut sleep).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        sleep
    };
    let [mut replaced, cancelled, fired, left] =
        machine.on(0, |_| [1000, 2000, 3000, 4000].map(sleeper));
    machine.on(0, |_| {
        assert!(poll(&mut replaced, &bell).is_pending());
        drop((replaced, cancelled));
    });
    assert_eq!(machine.rest(0), 3000);
    assert_eq!(machine.advance(0, 3000), 4000);
    machine.node.stop();
    machine.on(0, |cpu| while cpu.step() {});
    assert_eq!((bell.rung(), machine.fired(0)), (0, 1));
    drop((fired, left));
}

/// Ticks of an interval that a thread has taken: deadline and how many were missed.
type Ticks = Rc<RefCell<Vec<(u64, u64)>>>;

fn ticker(mut interval: Interval) -> Ticks {
    let ticks = Ticks::default();
    let log = ticks.clone();
    spawn("ticker", async move {
        loop {
            let deadline_ns = interval.tick().await;
            log.borrow_mut().push((deadline_ns, interval.missed()));
        }
    })
    .detach();
    ticks
}

#[test]
fn an_interval_keeps_its_phase_and_counts_what_it_missed() {
    let machine = Machine::new();
    machine.platform.now_ns.store(5, Ordering::Relaxed);
    let ticks = machine.on(0, |_| ticker(interval(Duration::from_nanos(10))));
    assert_eq!(machine.rest(0), 15);
    assert_eq!(machine.advance(0, 15), 25);
    assert_eq!(machine.advance(0, 27), 35, "lateness does not add up");
    // 35, 45 and 55 have passed as well.
    assert_eq!(machine.advance(0, 74), 75);
    assert_eq!(machine.advance(0, 75), 85);
    let expected = [(15, 0), (25, 0), (65, 3), (75, 0)];
    assert_eq!(ticks.take(), expected);
    machine.node.stop();
    machine.on(0, |cpu| while cpu.step() {});
}

#[test]
fn a_tick_that_is_not_waited_for_is_not_lost() {
    let machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut context = Context::from_waker(&waker);
    let mut ticks = machine.on(0, |_| interval(Duration::from_nanos(100)));
    machine.on(0, |_| {
        // Dropped while it waits.
        assert!(pin!(ticks.tick()).poll(&mut context).is_pending());
    });
    assert_eq!(machine.rest(0), 101, "it still waits");
    machine.advance(0, 150);
    assert_eq!(bell.rung(), 1);
    machine.on(0, |_| {
        assert_eq!(pin!(ticks.tick()).poll(&mut context), Poll::Ready(101));
        assert!(pin!(ticks.tick()).poll(&mut context).is_pending());
    });
    assert_eq!(machine.rest(0), 201);
    machine.on(0, |_| drop(ticks));
    assert_eq!(machine.rest(0), NEVER);
}

#[test]
fn intervals_and_sleeps_take_any_duration() {
    let machine = Machine::new();
    let waker = Waker::noop();
    let mut context = Context::from_waker(waker);
    machine.on(0, |_| {
        let mut never = interval(Duration::MAX);
        assert!(pin!(never.tick()).poll(&mut context).is_pending());
        let mut long = sleep(Duration::MAX);
        assert!(Pin::new(&mut long).poll(&mut context).is_pending());
        long.reset(u64::MAX);
        let mut always = interval(Duration::ZERO);
        machine.platform.now_ns.store(1_000_000, Ordering::Relaxed);
        let tick = pin!(always.tick()).poll(&mut context);
        assert_eq!(tick, Poll::Ready(1_000_000));
        assert_eq!(always.missed(), 1_000_000 - 2);
    });
    assert_eq!(machine.rest(0), NEVER);
}

#[test]
fn a_thousand_threads_sleep_and_none_wakes_early() {
    const THREADS: u64 = 1000;
    hosted::run(2, || async {
        let mut threads = Vec::new();
        for number in 0..THREADS {
            threads.push(spawn_movable("sleeper", move |mobile| async move {
                for round in 0..3 {
                    let wait_ns = (number * 7919 + round * 104_729) % 5_000_000;
                    let deadline_ns = now_ns() + wait_ns;
                    let mut sleep = sleep_until(deadline_ns);
                    // Half of them begin to wait on one CPU and go on on the other.
                    let begun = poll_fn(|context| Poll::Ready(Pin::new(&mut sleep).poll(context)));
                    if begun.await.is_pending() {
                        if number % 2 == 0 {
                            let there = CpuId(((number + round) % 2) as u16);
                            mobile.migrate_to(there).await;
                        }
                        sleep.await;
                    }
                    assert!(now_ns() >= deadline_ns, "early");
                    yield_now().await;
                }
            }));
        }
        for thread in threads {
            thread.await;
        }
    });
}

/// Polls once.
async fn is_pending(future: &mut std::pin::Pin<Box<executor::Sleep>>) -> bool {
    std::future::poll_fn(|context| {
        let poll = std::future::Future::poll(future.as_mut(), context);
        std::task::Poll::Ready(poll.is_pending())
    })
    .await
}

#[test]
fn a_sleep_that_is_carried_to_another_node_disturbs_no_timer_there() {
    let (give, take) = std::sync::mpsc::channel();
    let first = hosted::Hosted::start(hosted::Options::default());
    first.block_on(move || async move {
        let mut carried = Box::pin(sleep(Duration::from_secs(3600)));
        assert!(is_pending(&mut carried).await);
        give.send(carried).expect("taken below");
    });
    // The key of its first timer names the first timer of any CPU.
    let mut carried = take.recv().expect("sent above");
    hosted::run(1, move || async move {
        let mut own = Box::pin(sleep(Duration::from_millis(20)));
        assert!(is_pending(&mut own).await);
        assert!(is_pending(&mut carried).await, "it is set anew here");
        carried.as_mut().reset(0);
        drop(carried);
        own.as_mut().await;
        assert!(now_ns() >= own.deadline_ns());
    });
}

#[test]
fn a_cpu_that_spins_before_it_halts_fires_its_timers_meanwhile() {
    let hosted = hosted::Hosted::start(hosted::Options {
        idle_spin: 200_000_000,
        ..hosted::Options::default()
    });
    let late_ns = hosted.block_on(|| async {
        let mut latest = 0;
        for _ in 0..3 {
            let due_ns = now_ns() + 1_000_000;
            executor::sleep_until(due_ns).await;
            latest = latest.max(now_ns() - due_ns);
        }
        latest
    });
    // To look as often as it may takes seconds.
    assert!(late_ns < 1_000_000_000, "{late_ns} ns late");
}

#[test]
fn a_reset_on_another_cpu_wakes_who_awaits_it_at_the_new_deadline() {
    hosted::run(2, || async {
        let shared = Arc::new(Mutex::new(sleep(Duration::from_secs(3600))));
        let awaited = shared.clone();
        let sleeper = spawn("sleeper", async move {
            let poll = |context: &mut Context<'_>| {
                let mut sleep = awaited.lock().expect("not poisoned");
                Pin::new(&mut *sleep).poll(context)
            };
            poll_fn(poll).await;
            now_ns()
        });
        yield_now().await;
        let deadline_ns = now_ns() + 20_000_000;
        run_on(CpuId(1), move |_| {
            shared.lock().expect("not poisoned").reset(deadline_ns);
        })
        .await;
        let woken_ns = timeout(Duration::from_secs(10), sleeper).await;
        assert!(woken_ns.expect("it was told") >= deadline_ns);
    });
}
