//! Passive messages (trap 29): no doorbell, and in time all the same.

mod stepped;

use executor::{
    Cpu, CpuId, Event, Mobile, Sleep, current, hosted, run_on, send_passive, send_to, sleep_until,
    spawn_movable, timeout, yield_now,
};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};
use stepped::Stepped;

/// A DragonFly tick: how long a passive message may wait for a CPU that sleeps, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// Notes the numbers of messages in the order in which they are run.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u32>>>);

impl Log {
    fn note(&self, number: u32) -> impl FnOnce(&Cpu) + Send + 'static {
        let log = self.0.clone();
        move |_| log.lock().expect("no panic").push(number)
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// Whether a doorbell was rung for a send by CPU 0 to CPU 1, which sleeps.
fn rings(cpus: &mut Stepped, send: impl FnOnce(&Cpu)) -> bool {
    let before = cpus.node.cpu(CpuId(0)).stats().doorbells_rung.get();
    cpus.on(0, |cpu| send(cpu.node().cpu(CpuId(1))));
    cpus.node.cpu(CpuId(0)).stats().doorbells_rung.get() > before
}

#[test]
fn trap_29_a_passive_message_rings_nobody_and_is_run_within_a_tick() {
    let mut cpus = Stepped::new(2);
    let log = Log::default();
    let rung = rings(&mut cpus, |target| send_passive(target, log.note(1)));
    assert!(!rung);
    let stats = cpus.node.cpu(CpuId(0)).stats();
    assert_eq!(
        (stats.ipi_passive.get(), stats.doorbells_rung.get()),
        (1, 0)
    );
    // Both sleep; only the sender's timer is set.
    cpus.wake(0);
    cpus.settle();
    assert_eq!(log.take(), []);
    assert_eq!(
        (cpus.timer_ns(0), cpus.timer_ns(1)),
        (Some(1 + TICK_NS), None)
    );
    // A second one is covered by the same deadline.
    cpus.advance_to(5_000_000);
    cpus.wake(0);
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(2)
    )));
    cpus.settle();
    cpus.advance_to(TICK_NS);
    cpus.settle();
    assert_eq!(log.take(), []);
    cpus.advance_to(1 + TICK_NS);
    cpus.settle();
    assert_eq!(log.take(), [1, 2]);
    let stats = cpus.node.cpu(CpuId(0)).stats();
    assert_eq!(
        (stats.ipi_passive.get(), stats.doorbells_rung.get()),
        (2, 1)
    );
    assert_eq!(
        (cpus.timer_ns(0), cpus.timer_ns(1)),
        (None, None),
        "nothing ticks"
    );
}

#[test]
fn trap_29_a_passive_message_comes_with_an_active_one_and_in_its_place() {
    let mut cpus = Stepped::new(3);
    let log = Log::default();
    cpus.wake(0);
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(1)
    )));
    assert!(
        rings(&mut cpus, |target| send_to(target, log.note(2))),
        "nobody had rung for the first one"
    );
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(3)
    )));
    cpus.settle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_eq!(cpus.timer_ns(0), None, "found: the reminder is forgotten");
    // Somebody else's does it, too, and so does a look for another reason.
    cpus.wake(0);
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(4)
    )));
    let other = log.note(5);
    cpus.on(2, |cpu| send_to(cpu.node().cpu(CpuId(1)), other));
    assert_eq!(cpus.rung(), [1]);
    cpus.settle();
    assert_eq!(log.take(), [4, 5]);
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(6)
    )));
    cpus.wake(1);
    assert_eq!(log.take(), [6]);
    // One who is awake finds it at its next poll point, and does not halt before.
    cpus.on(0, |cpu| send_passive(cpu.node().cpu(CpuId(1)), log.note(7)));
    assert!(cpus.rung().is_empty());
    assert!(cpus.step(1));
    assert_eq!(log.take(), [7]);
    cpus.wake(0);
    cpus.settle();
    assert_eq!(cpus.timer_ns(0), None);
}

#[test]
fn trap_29_the_65th_of_waiting_passive_messages_rings() {
    let mut cpus = Stepped::new(2);
    let log = Log::default();
    for number in 0..64 {
        assert!(!rings(&mut cpus, |target| send_passive(
            target,
            log.note(number)
        )));
    }
    assert!(rings(&mut cpus, |target| send_passive(
        target,
        log.note(64)
    )));
    cpus.settle();
    assert_eq!(log.take(), (0..65).collect::<Vec<_>>());
    // The ring is empty again.
    assert!(!rings(&mut cpus, |target| send_passive(
        target,
        log.note(65)
    )));
    cpus.wake(1);
    // To oneself it is run at once, and from outside of every CPU nobody could remind of it.
    cpus.on(1, |cpu| send_passive(cpu, log.note(66)));
    assert_eq!(log.take(), [65, 66]);
    cpus.settle();
    send_passive(cpus.node.cpu(CpuId(1)), log.note(67));
    assert_eq!(cpus.rung(), [1]);
}

#[test]
fn trap_29_two_cpus_that_tell_a_third_passively_leave_one_reminder() {
    let mut cpus = Stepped::new(3);
    let log = Log::default();
    for (sender, number) in [(0, 1), (1, 2)] {
        let note = log.note(number);
        cpus.on(sender, |cpu| send_passive(cpu.node().cpu(CpuId(2)), note));
    }
    cpus.wake(0);
    cpus.wake(1);
    cpus.settle();
    assert_eq!(
        (cpus.timer_ns(0), cpus.timer_ns(1)),
        (Some(1 + TICK_NS), None)
    );
    cpus.advance_to(1 + TICK_NS);
    cpus.settle();
    assert_eq!(log.take(), [1, 2]);
}

#[test]
fn trap_29_on_real_threads_a_sleeping_cpu_gets_a_passive_message() {
    hosted::run(2, || async {
        for _ in 0..5 {
            let event = Arc::new(Event::new());
            // CPU 1 has halted since it ran this.
            let before = run_on(CpuId(1), |cpu| cpu.stats().halts.get()).await;
            let halts = |node: &executor::Node| node.cpu(CpuId(1)).stats().halts.get();
            while halts(current().node()) == before {
                yield_now().await;
            }
            let rung = current().stats().doorbells_rung.get();
            let signal = event.clone();
            send_passive(current().node().cpu(CpuId(1)), move |_| signal.signal());
            assert_eq!(current().stats().doorbells_rung.get(), rung);
            timeout(Duration::from_secs(10), event.wait())
                .await
                .expect("nobody was reminded");
        }
    });
}

#[test]
fn a_timer_that_was_left_on_another_cpu_is_cancelled_without_a_doorbell() {
    let mut cpus = Stepped::new(2);
    cpus.wake(0);
    cpus.on(0, |_| {
        spawn_movable("mover", |mobile: Mobile| async move {
            let mut sleep = pin!(sleep_until(60 * TICK_NS));
            let once = |sleep: Pin<&mut Sleep>| {
                let mut context = Context::from_waker(Waker::noop());
                assert!(sleep.poll(&mut context).is_pending());
            };
            once(sleep.as_mut());
            mobile.migrate_to(CpuId(1)).await;
            // Cancels the timer on CPU 0, and sets one here.
            once(sleep.as_mut());
        })
        .detach();
    });
    while cpus.step(0) {}
    assert_eq!(cpus.timer_ns(0), Some(60 * TICK_NS));
    assert_eq!(cpus.rung(), [1], "the thread has left");
    cpus.settle();
    let stats = cpus.node.cpu(CpuId(1)).stats();
    assert_eq!(
        (stats.ipi_passive.get(), stats.doorbells_rung.get()),
        (1, 0)
    );
    cpus.advance_to(1 + TICK_NS);
    cpus.settle();
    assert_eq!((cpus.timer_ns(0), cpus.timer_ns(1)), (None, None));
    assert_eq!(cpus.node.cpu(CpuId(0)).stats().timers_fired.get(), 0);
}
