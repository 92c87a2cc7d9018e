//! `trace`: switch the trace on and off, look at it, send it away. `tokens`: the tokens' contention.
//!
//! Decision: `trace dump` names threads by asking each CPU for those alive now. A thread that ended
//! since shows its number alone; keeping the names of the dead would need memory without bound.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use executor::trace::{ClassMask, EndReason, Event, Record};
use executor::{Cpu, CpuId, TokenCounts, run_on};

use super::arguments::Arguments;
use super::syntax::system::{Trace, class_names, parse_trace};
use super::{Command, CommandError, Context, owned, run};

pub(super) const COMMANDS: &[Command] = &[TRACE, TOKENS];

const TOKENS: Command = Command {
    name: "tokens",
    summary: "list the serializing tokens: how often each was taken and shared, and how long waited for",
    usage: "tokens                  (tokens of one name that were made in a row, a pool, in one line)",
    complete: |_, _| Vec::new(),
    run: run!(tokens),
};

async fn tokens(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    let heading = format_args!(
        "{:>5} {:>5} {:>12} {:>12} {:>10} {:>14}  {}",
        "id", "count", "taken", "shared", "contended", "waited", "name"
    );
    context.output.line(heading).await;
    let mut tokens = Vec::new();
    for cpu in (0..context.node.cpu_count() as u16).map(CpuId) {
        tokens.extend(run_on(cpu, Cpu::tokens).await);
    }
    tokens.sort_by_key(|token| token.id);
    for row in tokens.chunk_by(|one, next| one.name == next.name && one.id + 1 == next.id) {
        let sum = |of: fn(&TokenCounts) -> u64| row.iter().map(|token| of(&token.counts)).sum();
        let (taken, shared): (u64, u64) = (sum(|c| c.taken), sum(|c| c.shared));
        let (contended, waited_ns): (u64, u64) = (sum(|c| c.contended), sum(|c| c.waited_ns));
        let waited = super::threads::seconds(waited_ns);
        let (id, count, name) = (row[0].id, row.len(), row[0].name);
        context
            .output
            .line(format_args!(
                "{id:>5} {count:>5} {taken:>12} {shared:>12} {contended:>10} {waited:>14}  {name}"
            ))
            .await;
    }
    Ok(())
}

const TRACE: Command = Command {
    name: "trace",
    summary: "record what the CPUs do, show it, send it away",
    usage: "trace on [CLASSES]      (default: those set last, or all)\n\
            trace off\n\
            trace mask [CLASSES]\n\
            trace dump [COUNT] [cpu NUMBER]\n\
            trace stat\n\
            trace stream on|off     (over the trace channel)\n\
            CLASSES: all, none, or some of sched,wake,ipi,port,token,irq,timer,memory,user",
    complete: |_, words| match words.len() {
        1 => owned(&["on", "off", "mask", "dump", "stat", "stream"]),
        2 if words[1] == "stream" => owned(&["on", "off"]),
        2 if words[1] == "dump" => owned(&["cpu"]),
        2 if words[1] == "on" || words[1] == "mask" => owned(&["all", "none", "sched,wake,ipi"]),
        _ => Vec::new(),
    },
    run: run!(trace),
};

async fn trace(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let node = &context.node;
    match parse_trace(words)? {
        Trace::On(classes) => {
            let mask = classes.unwrap_or(match node.trace_mask() {
                ClassMask::NONE => context.last_trace_mask.get(),
                mask => mask,
            });
            context.last_trace_mask.set(mask);
            node.set_trace_mask(mask);
        }
        Trace::Off => {
            let mask = node.trace_mask();
            if mask != ClassMask::NONE {
                context.last_trace_mask.set(mask);
            }
            node.set_trace_mask(ClassMask::NONE);
        }
        Trace::Mask(None) => {
            context
                .output
                .line(format_args!("{}", class_names(node.trace_mask())))
                .await;
        }
        Trace::Mask(Some(mask)) => {
            context.last_trace_mask.set(mask);
            node.set_trace_mask(mask);
        }
        Trace::Dump { count, cpu } => dump(context, count, cpu).await?,
        Trace::Statistics => statistics(context).await,
        Trace::Stream(true) => context.services.trace_stream.set_running(true),
        Trace::Stream(false) => context.services.trace_stream.stop().await,
    }
    Ok(())
}

async fn statistics(context: &Context) {
    let output = &context.output;
    let stream = &context.services.trace_stream;
    let mask = class_names(context.node.trace_mask());
    output.line(format_args!("classes  {mask}")).await;
    let state = if stream.is_running() { "on" } else { "off" };
    output
        .line(format_args!(
            "stream   {state}, {} bytes sent",
            stream.sent_bytes()
        ))
        .await;
    output
        .line(format_args!(
            "{:>3} {:>12} {:>12} {:>12}",
            "cpu", "written", "sent", "lost"
        ))
        .await;
    for cpu in context.node.cpus() {
        let written = cpu.trace_ring().written();
        let (sent, lost) = stream.progress(cpu.id());
        output
            .line(format_args!(
                "{:>3} {written:>12} {sent:>12} {lost:>12}",
                cpu.id().0
            ))
            .await;
    }
}

async fn dump(context: &Context, count: usize, cpu: Option<u16>) -> Result<(), CommandError> {
    if let Some(number) = cpu
        && usize::from(number) >= context.node.cpu_count()
    {
        return Err(CommandError::NoSuchCpu(number));
    }
    let mut records: Vec<(CpuId, Record)> = Vec::new();
    for source in context.node.cpus() {
        if cpu.is_none_or(|number| source.id().0 == number) {
            source
                .trace_ring()
                .last(count, |record| records.push((source.id(), record)));
        }
    }
    records.sort_by_key(|(cpu, record)| (record.time_ns, *cpu));
    let names = thread_names(context).await;
    let older = records.len().saturating_sub(count);
    for (cpu, record) in &records[older..] {
        let text = describe(*record, |thread| names.get(&(*cpu, thread)).copied());
        let (s, ns) = (
            record.time_ns / 1_000_000_000,
            record.time_ns % 1_000_000_000,
        );
        context
            .output
            .line(format_args!("[{s:4}.{ns:09}] {:<6} {text}", cpu))
            .await;
    }
    if records.is_empty() {
        context
            .output
            .line(format_args!("nothing is recorded; `trace on` starts it"))
            .await;
    }
    Ok(())
}

/// The names of the threads alive, by CPU and the low 16 bits of the number, as records have it.
async fn thread_names(context: &Context) -> BTreeMap<(CpuId, u16), &'static str> {
    let mut names = BTreeMap::new();
    for number in 0..context.node.cpu_count() as u16 {
        let cpu = CpuId(number);
        for thread in run_on(cpu, Cpu::threads).await {
            names.insert((cpu, thread.id as u16), thread.name);
        }
    }
    names
}

/// A record as a person reads it.
fn describe(record: Record, name: impl Fn(u16) -> Option<&'static str>) -> String {
    let Some(event) = record.event() else {
        return alloc::format!("event {} (unknown)", record.event_code());
    };
    let (small, arg) = (record.small(), record.arg());
    let thread = match (record.thread(), name(record.thread())) {
        (0, _) => String::new(),
        (id, None) => alloc::format!("#{id}"),
        (id, Some(name)) => alloc::format!("#{id} {name}"),
    };
    let detail = match event {
        Event::ThreadSpawn => alloc::format!("priority {}", small & 0x1f),
        Event::RunBegin => alloc::format!("{small} more queued"),
        Event::RunEnd => EndReason::from_code(small)
            .map_or("", EndReason::name)
            .into(),
        Event::Wake => alloc::format!("by cpu{small} #{arg}"),
        Event::IpiSend | Event::IpiDoorbellSaved => alloc::format!("to cpu{small}, number {arg}"),
        Event::IpiReceive => alloc::format!("from cpu{small}, number {arg}"),
        Event::PortInline | Event::PortReply | Event::PortDequeue => {
            alloc::format!("message {arg:#x}")
        }
        Event::PortQueue => alloc::format!("message {arg:#x} to cpu{small}"),
        Event::TokenContended | Event::TokenTaken | Event::TokenReleased => {
            alloc::format!("token {arg}")
        }
        Event::InterruptBegin => alloc::format!("line {small}"),
        Event::TimerArm => alloc::format!("in {arg} us"),
        Event::TimerFire => alloc::format!("{arg} us late"),
        Event::SlabRefill => alloc::format!("size class {small}"),
        Event::SlabRemoteDrain => alloc::format!("{arg} objects"),
        Event::Mark => alloc::format!("{arg} ({arg:#x})"),
        Event::WatchdogOverrun => alloc::format!("{arg} ms so far"),
        Event::Migrate => alloc::format!("to cpu{small}"),
        Event::ThreadExit | Event::IdleBegin | Event::IdleEnd | Event::InterruptEnd => {
            String::new()
        }
    };
    let text = alloc::format!("{:<14} {thread:<20} {detail}", event.name());
    String::from(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_as_one_line_with_its_name() {
        for &event in Event::ALL {
            let record = Record::new(1, event, 3, 7, 9);
            let text = describe(record, |id| (id == 7).then_some("worker"));
            assert!(
                text.starts_with(event.name()) && !text.contains('\n'),
                "{text}"
            );
            assert!(text.contains("#7 worker"), "{text}");
        }
        let wake = Record::new(1, Event::Wake, 3, 7, 9);
        assert_eq!(
            describe(wake, |_| None),
            "wake           #7                   by cpu3 #9"
        );
        let unknown = Record::from_parts(1, 200, 0, 0, 0);
        assert_eq!(describe(unknown, |_| None), "event 200 (unknown)");
    }
}
