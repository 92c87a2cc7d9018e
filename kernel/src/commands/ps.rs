//! Commands about threads: `ps` lists them, `top` says which of them use the CPUs.
//!
//! Both visit each CPU, for a thread's list is its owner's alone, and so they show up in what they show.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use executor::{Account, Cpu, CpuId, ThreadInfo, run_on, sleep};

use super::arguments::Arguments;
use super::threads::{all_cpus, checked_cpu, seconds};
use super::{Command, CommandError, Context, no_words, owned, run};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ps",
        summary: "list the threads of every CPU",
        usage: "ps                      (of every CPU, or:)\n\
                ps CPU\n\
                ps -s [CPU]             (largest future first: what a thread keeps between two polls)",
        complete: |_, _| owned(&["-s"]),
        run: run!(ps),
    },
    Command {
        name: "top",
        summary: "which threads use the CPUs",
        usage: "top                     (once a second, until Ctrl-C)\n\
                top SECONDS [TIMES]",
        complete: no_words,
        run: run!(top),
    },
];

/// Rows of `top`.
const TOP_ROWS: usize = 12;
/// The shortest time between two looks of `top`.
const SHORTEST: Duration = Duration::from_millis(100);

/// The threads of these CPUs.
async fn collect(cpus: impl Iterator<Item = CpuId>) -> Vec<ThreadInfo> {
    let mut threads = Vec::new();
    for cpu in cpus {
        threads.extend(run_on(cpu, Cpu::threads).await);
    }
    threads
}

async fn ps(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let by_size = words.take_if("-s");
    let only = match words.peek() {
        None => None,
        Some(_) => {
            let number = words.number("CPU", 0..=u64::from(u16::MAX))?;
            Some(checked_cpu(context, number)?)
        }
    };
    words.end()?;
    let wanted = all_cpus(context).filter(|cpu| only.is_none_or(|only| only == *cpu));
    let mut threads = collect(wanted).await;
    if by_size {
        threads.sort_by_key(|thread| (core::cmp::Reverse(thread.future_bytes), thread.id));
    } else {
        threads.sort_by_key(|thread| (thread.cpu, thread.id));
    }
    let output = &context.output;
    output
        .line(format_args!(
            "{:>5} {:>3} {:>3} {:<5} {:>9} {:>9} {:>8} {:>11} {:>6} {:<16} spawned at",
            "id", "cpu", "pri", "state", "polls", "wakes", "messages", "run time", "bytes", "name"
        ))
        .await;
    for thread in threads {
        let account = thread.account;
        output
            .line(format_args!(
                "{:>5} {:>3} {:>3} {:<5} {:>9} {:>9} {:>8} {:>11} {:>6} {:<16} {}:{}",
                thread.id,
                thread.cpu.0,
                thread.priority.value(),
                if thread.runnable { "run" } else { "wait" },
                account.polls,
                account.wakes,
                account.messages,
                seconds(account.run_ns),
                thread.future_bytes,
                thread.name,
                thread.site.file(),
                thread.site.line(),
            ))
            .await;
    }
    Ok(())
}

/// What every thread and every CPU has used until now.
struct Sample {
    at_ns: u64,
    threads: Vec<ThreadInfo>,
    idle_ns: Vec<u64>,
}

impl Sample {
    async fn take(context: &Context) -> Self {
        Self {
            threads: collect(all_cpus(context)).await,
            idle_ns: context
                .node
                .cpus()
                .map(|cpu| cpu.stats().idle_ns.get())
                .collect(),
            at_ns: context.node.clock_ns(),
        }
    }
}

/// What `later` has on top of `earlier`.
fn difference(later: Account, earlier: Account) -> Account {
    Account {
        polls: later.polls.wrapping_sub(earlier.polls),
        wakes: later.wakes.wrapping_sub(earlier.wakes),
        messages: later.messages.wrapping_sub(earlier.messages),
        run_ns: later.run_ns.wrapping_sub(earlier.run_ns),
    }
}

/// `part` of `whole` in percent, with one decimal.
fn percent(part: u64, whole: u64) -> String {
    let permille = part.saturating_mul(1000) / whole.max(1);
    alloc::format!("{}.{}", permille / 10, permille % 10)
}

async fn top(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let mut interval = Duration::from_secs(1);
    let mut times = u64::MAX;
    if words.peek().is_some() {
        interval = words.seconds()?.max(SHORTEST);
        if words.peek().is_some() {
            times = words.number("number of times", 1..=1_000_000)?;
        }
    }
    words.end()?;
    let mut earlier = Sample::take(context).await;
    for _ in 0..times {
        sleep(interval).await;
        let later = Sample::take(context).await;
        show(context, &earlier, &later).await;
        earlier = later;
    }
    Ok(())
}

/// The threads that used most between two looks, the busiest first.
async fn show(context: &Context, earlier: &Sample, later: &Sample) {
    let span_ns = later.at_ns - earlier.at_ns;
    let before: BTreeMap<u32, Account> = earlier
        .threads
        .iter()
        .map(|thread| (thread.id, thread.account))
        .collect();
    let mut rows: Vec<(Account, &ThreadInfo)> = later
        .threads
        .iter()
        .map(|thread| {
            let before = before.get(&thread.id).copied().unwrap_or_default();
            (difference(thread.account, before), thread)
        })
        .filter(|(used, _)| used.polls != 0)
        .collect();
    rows.sort_by_key(|(used, thread)| (core::cmp::Reverse((used.run_ns, used.polls)), thread.id));
    let mut idle = String::new();
    for (number, (later, earlier)) in later.idle_ns.iter().zip(&earlier.idle_ns).enumerate() {
        let part = percent(later.saturating_sub(*earlier).min(span_ns), span_ns);
        idle.push_str(&alloc::format!(" cpu{number} {part} %"));
    }
    let output = &context.output;
    output.line(format_args!("idle:{idle}")).await;
    let headings = (
        "busy %", "polls", "wakes", "messages", "id", "cpu", "pri", "name",
    );
    let (busy, polls, wakes, messages, id, cpu, pri, name) = headings;
    output
        .line(format_args!(
            "{busy:>7} {polls:>9} {wakes:>9} {messages:>8} {id:>5} {cpu:>3} {pri:>3} {name}"
        ))
        .await;
    for (used, thread) in rows.iter().take(TOP_ROWS) {
        output
            .line(format_args!(
                "{:>7} {:>9} {:>9} {:>8} {:>5} {:>3} {:>3} {}",
                percent(used.run_ns.min(span_ns), span_ns),
                used.polls,
                used.wakes,
                used.messages,
                thread.id,
                thread.cpu.0,
                thread.priority.value(),
                thread.name,
            ))
            .await;
    }
    if rows.len() > TOP_ROWS {
        let more = rows.len() - TOP_ROWS;
        output.line(format_args!("and {more} more")).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_have_one_decimal_and_nothing_divides_by_zero() {
        assert_eq!(percent(0, 0), "0.0");
        assert_eq!(percent(123, 1000), "12.3");
        assert_eq!(percent(1000, 1000), "100.0");
    }
}
