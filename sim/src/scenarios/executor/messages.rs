//! What threads do with IPI messages of their own: send them, wait for them, and hold other CPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use executor::{
    Cpu, CpuId, CpuMask, cpusync, current, current_cpu, now_ns, run_on_all, send_passive, send_to,
    sent_to, synchronize,
};

use super::ledger::Ledger;

/// Sends numbered messages to a CPU, each of which checks its place and its time.
pub fn tell(ledger: &Arc<Ledger>, cpu: u16, count: u32, passive: bool) {
    let (here, target) = (current_cpu().0, current().node().cpu(CpuId(cpu)));
    for _ in 0..count {
        let number = ledger.tells(here, cpu);
        let (notes, sent_ns) = (ledger.clone(), now_ns());
        let heard = move |_: &Cpu| {
            notes.hears(here, cpu, number, now_ns().saturating_sub(sent_ns));
        };
        if passive {
            send_passive(target, heard);
        } else {
            send_to(target, heard);
        }
    }
}

/// Waits until a CPU, or every CPU, has run what this one had sent it.
pub async fn settle(ledger: &Ledger, cpu: u16, everybody: bool, cpus: u16) {
    let here = current_cpu().0;
    let told = |to: u16| (to, ledger.told(here, to));
    let told: Vec<(u16, u32)> = if everybody {
        (0..cpus).map(told).collect()
    } else {
        vec![told(cpu)]
    };
    if everybody {
        synchronize().await;
    } else {
        sent_to(CpuId(cpu)).wait().await;
    }
    for (to, number) in told {
        let heard = ledger.heard(here, to);
        if heard < number {
            ledger.break_promise("who waits for what was sent waits until it has run", || {
                format!("cpu{to} has run {heard} of {number} messages of cpu{here}")
            });
        }
    }
}

/// Runs a function on every CPU.
pub async fn everywhere(ledger: &Arc<Ledger>, cpus: u16) {
    let ran = Arc::new(AtomicU32::new(0));
    let theirs = ran.clone();
    run_on_all(move |cpu: &Cpu| {
        theirs.fetch_add(1 << cpu.id().0, Ordering::Relaxed);
    })
    .await;
    let ran = ran.load(Ordering::Relaxed);
    if ran != (1 << cpus) - 1 {
        ledger.break_promise("a function on every CPU runs once on each", || {
            format!("{ran:#b} of {cpus}")
        });
    }
}

/// Holds these CPUs and this one, or runs a function on each without holding it.
pub async fn hold_still(ledger: &Arc<Ledger>, others: u64, quick: bool) {
    let bits = others | 1 << current_cpu().0;
    let mask: CpuMask = (0..64)
        .filter(|cpu| bits & 1 << cpu != 0)
        .map(CpuId)
        .collect();
    let ran = Arc::new(AtomicU32::new(0));
    let (theirs, notes) = (ran.clone(), ledger.clone());
    if quick {
        let each = move |_: &Cpu| _ = theirs.fetch_add(1, Ordering::Relaxed);
        cpusync::quick(&mask, each).await;
    } else {
        let alone = ledger.clone();
        let each = move |cpu: &Cpu| {
            notes.goes_on(cpu.id().0);
            theirs.fetch_add(1, Ordering::Relaxed);
        };
        cpusync::run(&mask, move |_: &Cpu| alone.stands_still(bits), each).await;
    }
    let ran = ran.load(Ordering::Relaxed);
    if ran != bits.count_ones() {
        ledger.break_promise("a cpusync runs its function once on each CPU", || {
            format!("{ran} times for {bits:#b}")
        });
    }
}
