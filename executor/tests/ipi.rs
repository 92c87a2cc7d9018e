//! IPI messages and chains.

use executor::{
    CpuId, CpuLocal, chain, critical, current, current_cpu, hosted, run_on, send_to, sleep,
    spawn_on, timeout, yield_now,
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
#[test]
fn trap_26_a_send_to_oneself_is_done_on_return() {
    hosted::run(2, || async {
        let done = Arc::new(AtomicU32::new(0));
        let theirs = done.clone();
        let sent = current().stats().ipi_sent.get();
        send_to(current(), move |cpu| {
            assert_eq!(cpu.id(), current_cpu());
            assert!(critical::is_hard());
            theirs.store(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert_eq!(
            current().stats().ipi_sent.get(),
            sent,
            "no message was queued"
        );
    });
}

#[test]
fn traps_27_28_a_storm_over_full_rings_loses_nothing_and_keeps_order() {
    // Every CPU sends far more to each other than a ring holds, without yielding; handlers send on until the budget
    // ends. No sender waits, so no two can wait for each other.
    const EACH: u64 = 5_000;
    hosted::run(3, || async {
        type Seen = Mutex<BTreeMap<(u16, u16), Vec<u64>>>;
        let seen: Arc<Seen> = Arc::default();
        let echoes = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for from in 0..3u16 {
            let (seen, echoes) = (seen.clone(), echoes.clone());
            senders.push(spawn_on(CpuId(from), "storm", move || async move {
                for number in 0..EACH {
                    for to in (0..3).filter(|to| *to != from) {
                        let (seen, echoes) = (seen.clone(), echoes.clone());
                        send_to(current().node().cpu(CpuId(to)), move |cpu| {
                            seen.lock()
                                .expect("no panic")
                                .entry((from, to))
                                .or_default()
                                .push(number);
                            let back = cpu.node().cpu(CpuId(from));
                            send_to(back, move |_| {
                                echoes.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                }
            }));
        }
        for sender in senders {
            sender.await;
        }
        let all = EACH * 6;
        let arrive = async {
            while echoes.load(Ordering::Relaxed) < all {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), arrive)
            .await
            .expect("messages were lost");
        assert_eq!(echoes.load(Ordering::Relaxed), all);
        for (pair, numbers) in seen.lock().expect("no panic").iter() {
            assert!(
                numbers.iter().copied().eq(0..EACH),
                "{pair:?} out of order or not once"
            );
        }
        let full = current()
            .node()
            .cpus()
            .map(|cpu| cpu.stats().ipi_backlogged.get())
            .sum::<u64>();
        assert!(
            full > 0,
            "the rings were never full: the test proves nothing"
        );
    });
}

#[test]
fn busy_cpus_exchange_messages_without_a_doorbell() {
    hosted::run(2, || async {
        let stop = Arc::new(AtomicU32::new(0));
        let spins = [CpuId(0), CpuId(1)].map(|cpu| {
            let stop = stop.clone();
            spawn_on(cpu, "spinner", move || async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    yield_now().await;
                }
            })
        });
        assert_eq!(run_on(CpuId(1), |cpu| cpu.id()).await, CpuId(1));
        let rung = |node: &executor::Node| {
            node.cpus()
                .map(|cpu| cpu.stats().doorbells_rung.get())
                .sum::<u64>()
        };
        let before = rung(current().node());
        for _ in 0..1000 {
            run_on(CpuId(1), |_| ()).await;
        }
        assert_eq!(rung(current().node()), before);
        assert!(current().stats().doorbells_saved.get() >= 1000);
        stop.store(1, Ordering::Relaxed);
        for spin in spins {
            spin.await;
        }
    });
}

#[test]
fn a_chain_visits_every_cpu_in_order_and_returns_after_the_last() {
    hosted::run(4, || async {
        let visits = Arc::new(Mutex::new(Vec::new()));
        let local = Arc::new(CpuLocal::new(current().node(), |_| Cell::new(0)));
        let (log, copies) = (visits.clone(), local.clone());
        chain(move |cpu| {
            log.lock().expect("no panic").push(cpu.id().0);
            copies.with(|copy| copy.set(copy.get() + 1));
        })
        .await;
        assert_eq!(*visits.lock().expect("no panic"), [0, 1, 2, 3]);
        for cpu in 0..4 {
            let local = local.clone();
            assert_eq!(run_on(CpuId(cpu), move |_| local.with(Cell::get)).await, 1);
        }
    });
}
