//! Commands about the executor: `cpus`, `stat`, `uptime`.
//!
//! Decision: `stat` reads counters where they lie, without a message, so that looking at an idle CPU
//! does not wake it; `cpus` needs what only the owner may touch, and visits each CPU.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use executor::{Cpu, CpuId, run_on, sleep};

use super::arguments::{Arguments, unknown};
use super::syntax::system::parse_workload;
use super::{Command, CommandError, Context, no_words, owned, run};
use crate::{bench, workload};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "cpus",
        summary: "what each CPU does",
        usage: "cpus                    (since boot)\n\
                cpus SECONDS            (once every so many seconds, until Ctrl-C)",
        complete: no_words,
        run: run!(cpus),
    },
    Command {
        name: "stat",
        summary: "every counter of the executor, without waking an idle CPU",
        usage: "stat                    (the sums over all CPUs)\nstat cpu NUMBER",
        complete: |_, _| owned(&["cpu"]),
        run: run!(stat),
    },
    Command {
        name: "uptime",
        summary: "time since boot",
        usage: "uptime",
        complete: no_words,
        run: run!(uptime),
    },
    Command {
        name: "spin",
        summary: "keep a CPU busy without an await, for the watchdog to see",
        usage: "spin [SECONDS] [CPU]    (up to 10 s, default 1 s; the last CPU)",
        complete: no_words,
        run: run!(spin),
    },
    Command {
        name: "bench",
        summary: "what the executor costs on this machine: time, cycles, messages, doorbells",
        usage: "bench                   (some seconds; leave the node alone meanwhile)",
        complete: no_words,
        run: run!(measure),
    },
    Command {
        name: "workload",
        summary: "have every CPU do everything once in a while, for the trace to show",
        usage: "workload [SECONDS]      (default 3)",
        complete: no_words,
        run: run!(exercise),
    },
];

/// The CPU with this number.
pub(super) fn checked_cpu(context: &Context, number: u64) -> Result<CpuId, CommandError> {
    let number = number as u16;
    if usize::from(number) < context.node.cpu_count() {
        Ok(CpuId(number))
    } else {
        Err(CommandError::NoSuchCpu(number))
    }
}

/// The numbers of all CPUs.
pub(super) fn all_cpus(context: &Context) -> impl Iterator<Item = CpuId> + use<> {
    (0..context.node.cpu_count() as u16).map(CpuId)
}

/// A row of `cpus`.
#[derive(Clone, Copy, Default)]
struct CpuRow {
    threads: u32,
    queued: u32,
    polls: u64,
    ipi_sent: u64,
    ipi_received: u64,
    doorbells_rung: u64,
    doorbells_saved: u64,
    interrupts: u64,
    timer_interrupts: u64,
    idle_ns: u64,
}

impl CpuRow {
    /// The row of the CPU it runs on.
    fn of(cpu: &Cpu) -> Self {
        let stats = cpu.stats();
        Self {
            threads: cpu.thread_count(),
            queued: cpu.run_queue_length(),
            polls: cpu.poll_count(),
            ipi_sent: stats.ipi_sent.get(),
            ipi_received: stats.ipi_received.get(),
            doorbells_rung: stats.doorbells_rung.get(),
            doorbells_saved: stats.doorbells_saved.get(),
            interrupts: stats.interrupts.get(),
            timer_interrupts: stats.timer_interrupts.get(),
            idle_ns: stats.idle_ns.get(),
        }
    }

    /// What was added since `earlier`; threads and queue are as they are now.
    fn since(&self, earlier: &Self) -> Self {
        Self {
            threads: self.threads,
            queued: self.queued,
            polls: self.polls - earlier.polls,
            ipi_sent: self.ipi_sent - earlier.ipi_sent,
            ipi_received: self.ipi_received - earlier.ipi_received,
            doorbells_rung: self.doorbells_rung - earlier.doorbells_rung,
            doorbells_saved: self.doorbells_saved - earlier.doorbells_saved,
            interrupts: self.interrupts - earlier.interrupts,
            timer_interrupts: self.timer_interrupts - earlier.timer_interrupts,
            idle_ns: self.idle_ns - earlier.idle_ns,
        }
    }
}

async fn collect_rows(context: &Context) -> Vec<CpuRow> {
    let mut rows = Vec::with_capacity(context.node.cpu_count());
    for cpu in all_cpus(context) {
        rows.push(run_on(cpu, CpuRow::of).await);
    }
    rows
}

async fn cpus(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let interval = if words.peek().is_some() {
        Some(words.seconds()?)
    } else {
        None
    };
    words.end()?;
    let mut earlier = alloc::vec![CpuRow::default(); context.node.cpu_count()];
    let mut earlier_ns = 0;
    if interval.is_some() {
        earlier = collect_rows(context).await;
        earlier_ns = context.node.clock_ns();
    }
    loop {
        if let Some(interval) = interval {
            sleep(interval.max(Duration::from_millis(100))).await;
        }
        let rows = collect_rows(context).await;
        let now_ns = context.node.clock_ns();
        print_rows(context, &rows, &earlier, now_ns - earlier_ns).await;
        if interval.is_none() {
            return Ok(());
        }
        earlier = rows;
        earlier_ns = now_ns;
    }
}

async fn print_rows(context: &Context, rows: &[CpuRow], earlier: &[CpuRow], span_ns: u64) {
    let output = &context.output;
    output
        .line(format_args!(
            "{:>3} {:>7} {:>5} {:>10} {:>9} {:>9} {:>8} {:>8} {:>9} {:>7} {:>6}",
            "cpu",
            "threads",
            "queue",
            "polls",
            "ipi sent",
            "ipi rcvd",
            "rung",
            "saved",
            "intr",
            "timer",
            "idle"
        ))
        .await;
    for (number, (row, earlier)) in rows.iter().zip(earlier).enumerate() {
        let row = row.since(earlier);
        let idle_permille = row.idle_ns.saturating_mul(1000) / span_ns.max(1);
        output
            .line(format_args!(
                "{:>3} {:>7} {:>5} {:>10} {:>9} {:>9} {:>8} {:>8} {:>9} {:>7} {:>3}.{} %",
                number,
                row.threads,
                row.queued,
                row.polls,
                row.ipi_sent,
                row.ipi_received,
                row.doorbells_rung,
                row.doorbells_saved,
                row.interrupts,
                row.timer_interrupts,
                idle_permille.min(1000) / 10,
                idle_permille.min(1000) % 10,
            ))
            .await;
    }
}

async fn stat(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let only = match words.take() {
        None => None,
        Some("cpu") => {
            let number = words.number("CPU", 0..=u64::from(u16::MAX))?;
            Some(checked_cpu(context, number)?)
        }
        Some(word) => return Err(unknown(word, "`cpu NUMBER`").into()),
    };
    words.end()?;
    let wanted = context
        .node
        .cpus()
        .filter(|cpu| only.is_none_or(|only| cpu.id() == only));
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for cpu in wanted {
        cpu.stats().each(
            |name, value| match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum = sum.wrapping_add(value),
                None => sums.push((name, value)),
            },
        );
    }
    for (name, sum) in sums {
        context.output.line(format_args!("{sum:>16} {name}")).await;
    }
    Ok(())
}

async fn uptime(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    let now_ns = context.node.clock_ns();
    let cpus = context.node.cpu_count();
    context
        .output
        .line(format_args!(
            "up {} s, {cpus} CPU{}",
            seconds(now_ns),
            if cpus == 1 { "" } else { "s" }
        ))
        .await;
    Ok(())
}

/// The longest that `spin` may keep a CPU, in seconds.
const LONGEST_SPIN: u32 = 10;

/// Tells the spinner to end when whoever waits for it goes: at Ctrl-C.
struct StopSpinning(Arc<AtomicBool>);

impl Drop for StopSpinning {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn spin(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let mut duration = Duration::from_secs(1);
    let mut cpu = CpuId(context.node.cpu_count() as u16 - 1);
    if words.peek().is_some() {
        duration = words.seconds_up_to(LONGEST_SPIN)?;
        if words.peek().is_some() {
            let number = words.number("CPU", 0..=u64::from(u16::MAX))?;
            cpu = checked_cpu(context, number)?;
        }
    }
    words.end()?;
    let wait_ns = duration.as_nanos() as u64;
    let stop = StopSpinning(Arc::default());
    let stopped = stop.0.clone();
    let spinner = executor::spawn_on(cpu, "spinner", move || async move {
        let began_ns = executor::now_ns();
        while executor::now_ns() - began_ns < wait_ns && !stopped.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    });
    spinner.await;
    drop(stop);
    Ok(())
}

async fn measure(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    bench::run(&context.node, &*context.machine, &context.output).await;
    Ok(())
}

async fn exercise(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let duration = parse_workload(words)?;
    let report = workload::run(&context.node, &context.services.network, duration).await;
    context.output.line(format_args!("{report}")).await;
    Ok(())
}

/// Nanoseconds as seconds with six decimals.
pub(super) fn seconds(ns: u64) -> String {
    alloc::format!("{}.{:06}", ns / 1_000_000_000, ns / 1000 % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_six_decimals() {
        assert_eq!(seconds(0), "0.000000");
        assert_eq!(seconds(1_234_567_891), "1.234567");
        assert_eq!(seconds(61_000_000_999), "61.000000");
    }
}
