//! The trace as text for a terminal: the dump, line by line, and the summary.
//!
//! [`write_dump`] shows every record, [`write_summary`] what they add up to. [`Style`] says whether
//! there are colours.
//!
//! Decision: each dump line carries the time since the start of the trace and the time since the
//! line before. The first finds a moment again in the other outputs, the second is what one reads.

use std::fmt::Display;
use std::io::{self, Write};

use executor::trace::record::{ANNOUNCED, Class, EndReason, Event, Record};

use super::histogram::{self, Histogram};
use super::model::{LogEntry, LogLine, ThreadIndex, Trace};

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Plain text, for files and pipes.
    Plain,
    /// ANSI colours, for a terminal.
    Colour,
}

impl Style {
    /// Colours when standard output is a terminal and NO_COLOR is not set.
    pub fn for_stdout() -> Self {
        let terminal = io::IsTerminal::is_terminal(&io::stdout());
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if terminal && wanted {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    /// `text` in the colour with this ANSI code.
    fn paint(self, code: &str, text: impl Display) -> String {
        match self {
            Self::Plain => text.to_string(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const WARNING: &str = "1;33";
const BAR: &str = "36";

/// A duration with three figures and its unit.
pub fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (ns as f64 / 1e3, "us"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// Writes every record, oldest first.
pub fn write_dump(trace: &Trace, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let head = format!(
        "{:>14} {:>9}  {:<5} {:<24} {:<14} {}",
        "time [s]", "after", "cpu", "thread", "event", "details"
    );
    writeln!(out, "{}", style.paint(BOLD, head))?;
    let mut before_ns = trace.start_ns;
    for entry in &trace.log {
        let time_ns = entry.time_ns().saturating_sub(trace.start_ns);
        let after = entry.time_ns().saturating_sub(before_ns);
        before_ns = entry.time_ns();
        let stamp = format!(
            "{:>4}.{:09} {:>9}",
            time_ns / 1_000_000_000,
            time_ns % 1_000_000_000,
            duration(after)
        );
        let cpu = format!("cpu{}", entry.cpu);
        match entry.what {
            LogLine::Record(record) => {
                let code = event_colour(&record);
                let thread = entry.thread.map(|thread| thread_label(trace, thread));
                let event = match record.event() {
                    Some(event) => event.name().to_owned(),
                    None => format!("event {}", record.event_code()),
                };
                let line = format!(
                    "{}  {cpu:<5} {:<24} {} {}",
                    style.paint(DIM, stamp),
                    thread.as_deref().unwrap_or("-"),
                    style.paint(code, format_args!("{event:<14}")),
                    details(trace, entry, record)
                );
                writeln!(out, "{}", line.trim_end())?;
            }
            LogLine::Lost(lost) => {
                let text = format!("---- {} records lost here ----", lost.lost);
                writeln!(out, "{stamp}  {cpu:<5} {}", style.paint(WARNING, text))?;
            }
        }
    }
    Ok(())
}

fn event_colour(record: &Record) -> &'static str {
    match record.event().map(Event::class) {
        Some(Class::Sched) => "32",
        Some(Class::Wake) => "33",
        Some(Class::Ipi) => "35",
        Some(Class::Port) => "36",
        Some(Class::Token) => "31",
        Some(Class::Irq | Class::Timer) => "34",
        _ => "37",
    }
}

/// A thread's name and id: names are often shared.
pub fn thread_label(trace: &Trace, thread: ThreadIndex) -> String {
    let thread = &trace.threads[thread as usize];
    let mut name: String = thread.name.chars().take(17).collect();
    if !name.ends_with(&thread.id.to_string()) {
        name.push_str(&format!(" #{}", thread.id));
    }
    name
}

/// The part of a dump line that depends on the event.
fn details(trace: &Trace, entry: &LogEntry, record: Record) -> String {
    let (small, arg) = (record.small(), record.arg());
    let Some(event) = record.event() else {
        return format!("small {small} arg {arg}");
    };
    let token = || {
        let token = trace.tokens.iter().find(|token| token.id == arg);
        token.map_or_else(|| format!("token {arg}"), |token| token.name.clone())
    };
    match event {
        Event::ThreadSpawn => {
            let thread = entry.thread.map(|thread| &trace.threads[thread as usize]);
            let site = thread.map_or("", |thread| thread.site.as_str());
            let known = if small & ANNOUNCED != 0 {
                ", running already"
            } else {
                ""
            };
            format!("priority {}, {site}{known}", small & !ANNOUNCED)
        }
        Event::RunBegin => format!("queue {small}"),
        Event::RunEnd => EndReason::from_code(small)
            .map_or("?", EndReason::name)
            .to_owned(),
        Event::Wake => match entry.other {
            Some(waker) => format!("by {} on cpu{small}", thread_label(trace, waker)),
            None => format!("by an interrupt, a timer or a message on cpu{small}"),
        },
        Event::IpiSend => format!("-> cpu{small} #{arg}, doorbell"),
        Event::IpiDoorbellSaved => format!("-> cpu{small} #{arg}, no doorbell"),
        Event::IpiReceive => format!("<- cpu{small} #{arg}"),
        Event::PortQueue => format!("-> cpu{small} message {}", message(arg)),
        Event::PortInline | Event::PortDequeue | Event::PortReply => {
            format!("message {}", message(arg))
        }
        Event::TokenContended | Event::TokenTaken | Event::TokenReleased => token(),
        Event::InterruptBegin => format!("line {small}"),
        Event::TimerArm => format!("in {}", duration(u64::from(arg) * 1_000)),
        Event::TimerFire => format!("{} late", duration(u64::from(arg) * 1_000)),
        Event::SlabRefill => format!("class {small}"),
        Event::SlabRemoteDrain => format!("{arg} objects"),
        Event::Mark => format!("{arg}"),
        Event::WatchdogOverrun => format!("{arg} ms"),
        Event::Migrate => format!("-> cpu{small}"),
        Event::ThreadExit | Event::IdleBegin | Event::IdleEnd | Event::InterruptEnd => {
            String::new()
        }
    }
}

/// A message id as CPU and number: the CPU is in the top 6 bits.
fn message(id: u32) -> String {
    format!("{}.{}", id >> 26, id & 0x03ff_ffff)
}

/// Writes what the trace adds up to.
pub fn write_summary(trace: &Trace, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let title = |text: &str| style.paint(BOLD, text);
    let host = if trace.hostname.is_empty() {
        "a machine"
    } else {
        &trace.hostname
    };
    writeln!(
        out,
        "{}: {} on {} CPUs, {} records, {} threads",
        title(host),
        duration(trace.duration_ns()),
        trace.cpus.len(),
        trace.record_count(),
        trace.threads.len()
    )?;
    write_losses(trace, style, out)?;

    writeln!(out, "\n{}", title("CPUs"))?;
    writeln!(
        out,
        "  {:<6} {:>7} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8}",
        "cpu", "run", "idle", "irq", "polls", "inline", "timers", "lost"
    )?;
    for (number, cpu) in trace.cpus.iter().enumerate() {
        let covered = cpu.covered.duration_ns().max(1) as f64;
        let percent = |ns: u64| format!("{:.1} %", 100.0 * ns as f64 / covered);
        let run = cpu.run_ns();
        writeln!(
            out,
            "  {:<6} {:>7} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8}  {}",
            format!("cpu{number}"),
            percent(run),
            percent(cpu.idle_ns()),
            percent(cpu.interrupt_ns()),
            cpu.polls.len(),
            cpu.inline_calls,
            cpu.timer_fires,
            cpu.lost(),
            style.paint(BAR, bar(run as f64 / covered, 20)).trim_end()
        )?;
    }

    writeln!(out, "\n{}", title("Longest polls"))?;
    for (number, (cpu, poll)) in trace.longest_polls(10).into_iter().enumerate() {
        let site = &trace.threads[poll.thread as usize].site;
        writeln!(
            out,
            "  {:>2}  {:>1}{:>8}  cpu{cpu:<3} at {:>11.6} s  {:<24} {}",
            number + 1,
            if poll.cut { ">" } else { "" },
            duration(poll.span.duration_ns()),
            (poll.span.begin_ns - trace.start_ns) as f64 / 1e9,
            thread_label(trace, poll.thread),
            style.paint(DIM, site)
        )?;
    }

    write_ipis(trace, style, out)?;
    write_histogram(
        "Run time of a poll",
        histogram::run_times(trace),
        style,
        out,
    )?;
    write_histogram("Wake to run", histogram::wake_latencies(trace), style, out)?;

    if trace
        .tokens
        .iter()
        .any(|token| token.taken + token.contended > 0)
    {
        writeln!(out, "\n{}", title("Tokens"))?;
        writeln!(
            out,
            "  {:<20} {:>8} {:>10} {:>10} {:>10}",
            "token", "taken", "contended", "waited", "longest"
        )?;
        for token in &trace.tokens {
            writeln!(
                out,
                "  {:<20} {:>8} {:>10} {:>10} {:>10}",
                token.name,
                token.taken,
                token.contended,
                duration(token.wait_ns),
                duration(token.longest_wait_ns)
            )?;
        }
    }
    Ok(())
}

/// Says what is missing; says nothing only when nothing is.
fn write_losses(trace: &Trace, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut warn = |text: String| writeln!(out, "{}", style.paint(WARNING, text));
    let lost = trace.lost_count();
    if lost > 0 {
        let spans = trace.cpus.iter().flat_map(|cpu| &cpu.gaps);
        let in_ring = spans.fold(0u64, |sum, span| sum.saturating_add(span.lost_in_ring));
        let on_the_way = lost.saturating_sub(in_ring);
        warn(format!(
            "{lost} records lost: {in_ring} in the rings, {on_the_way} on the way"
        ))?;
    }
    let health = &trace.health;
    for (count, what) in [
        (health.bad_checksums, "frames with a bad checksum"),
        (health.broken_frames, "pieces of input that are no frame"),
        (
            health.unknown_frames,
            "frames that this version does not understand",
        ),
        (
            health.repeated_records,
            "records sent twice and counted once",
        ),
        (
            health.earlier_boot_records,
            "records of an earlier boot left out",
        ),
        (trace.unknown_events, "records with an unknown event"),
        (trace.unmatched, "ends without a begin"),
    ] {
        if count > 0 {
            warn(format!("{count} {what}"))?;
        }
    }
    if trace.early.count > 0 {
        let most = duration(trace.early.most_ns);
        warn(format!(
            "{} arrivals recorded before their departures, by up to {most}; drawn as one moment",
            trace.early.count
        ))?;
    }
    if !trace.complete {
        warn("the stream has no end mark: it was cut off".to_owned())?;
    }
    Ok(())
}

fn write_ipis(trace: &Trace, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let matrix = trace.ipi_matrix();
    let sent: u64 = matrix.iter().flatten().map(|cell| cell.sent).sum();
    let rung: u64 = matrix.iter().flatten().map(|cell| cell.doorbells).sum();
    let head = format!(
        "IPI messages: {sent} sent, {rung} doorbells rung, {} saved",
        sent - rung
    );
    writeln!(out, "\n{}", style.paint(BOLD, head))?;
    // Beyond this the table no longer fits a terminal; the page shows it whole.
    const WIDEST: usize = 8;
    if sent == 0 || matrix.len() > WIDEST {
        return Ok(());
    }
    write!(out, "  {:<10}", "sent/rung")?;
    for to in 0..matrix.len() {
        write!(out, " {:>13}", format!("-> cpu{to}"))?;
    }
    writeln!(out)?;
    for (from, row) in matrix.iter().enumerate() {
        write!(out, "  {:<10}", format!("cpu{from}"))?;
        for cell in row {
            let text = match cell.sent {
                0 => ".".to_owned(),
                _ => format!("{}/{}", cell.sent, cell.doorbells),
            };
            write!(out, " {text:>13}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_histogram(
    title: &str,
    histogram: Option<Histogram>,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(histogram) = histogram else {
        return writeln!(out, "\n{}: none recorded", style.paint(BOLD, title));
    };
    writeln!(
        out,
        "\n{}: {} of them, median {}, 90 % {}, 99 % {}, longest {}",
        style.paint(BOLD, title),
        histogram.count,
        duration(histogram.p50_ns),
        duration(histogram.p90_ns),
        duration(histogram.p99_ns),
        duration(histogram.max_ns)
    )?;
    let most = histogram
        .buckets
        .iter()
        .map(|bucket| bucket.count)
        .max()
        .unwrap_or(1)
        .max(1);
    for bucket in &histogram.buckets {
        let line = format!(
            "  from {:>8} {:>9} {}",
            duration(bucket.from_ns),
            bucket.count,
            style.paint(BAR, bar(bucket.count as f64 / most as f64, 40))
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A bar of at most `width` signs; anything above nothing shows at least one.
fn bar(share: f64, width: usize) -> String {
    let len = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    "#".repeat(if share > 0.0 { len.max(1) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_figures() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (9_994, "9.99 us"),
            (9_996, "10.0 us"),
            (123_456, "123 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (45_600_000, "45.6 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn a_bar_shows_the_smallest_share() {
        assert_eq!(bar(0.0, 10), "");
        assert_eq!(bar(0.001, 10), "#");
        assert_eq!(bar(7.0, 3), "###");
    }
}
