//! Writes a trace as one HTML page that needs no network.
//!
//! [`write`] puts the style, the program and the data into `page.html`. The data is a JSON object
//! whose long lists are varints in base64 ([`Column`]); `page_data.js` unpacks them into typed
//! arrays.
//!
//! Decision: packed varints instead of JSON numbers. 200,000 events take 2 MB instead of 9, and a
//! browser unpacks them in a few hundredths of a second. Order and meaning of the values of each
//! list are said once, here, at the function that packs it.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::model::{CpuTimeline, NoteKind, Trace};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// The program in the order in which it is read: data, drawing, panels, start.
const PROGRAM: [&str; 4] = [
    include_str!("page_data.js"),
    include_str!("page_timeline.js"),
    include_str!("page_panels.js"),
    include_str!("page.js"),
];

/// Writes the page.
pub fn write(trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
    // "<" cannot end the script element early, whatever a thread is called.
    let data = data(trace).to_string().replace('<', "\\u003c");
    for part in PAGE.split_inclusive("-->") {
        let Some((before, marker)) = part.rsplit_once("<!--") else {
            out.write_all(part.as_bytes())?;
            continue;
        };
        out.write_all(before.as_bytes())?;
        match marker.trim_end_matches("-->").trim() {
            "style" => write!(out, "<style>\n{STYLE}</style>")?,
            "data" => {
                write!(
                    out,
                    "<script type=\"application/json\" id=\"data\">{data}</script>"
                )?;
            }
            "program" => {
                out.write_all(b"<script>\n\"use strict\";\n")?;
                PROGRAM
                    .iter()
                    .try_for_each(|file| out.write_all(file.as_bytes()))?;
                out.write_all(b"</script>")?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn data(trace: &Trace) -> Value {
    let threads: Vec<Value> = trace
        .threads
        .iter()
        .map(|thread| {
            json!([
                thread.name,
                thread.site,
                thread.id,
                thread.cpu,
                thread.priority,
                thread.parent
            ])
        })
        .collect();
    let tokens: Vec<Value> = trace
        .tokens
        .iter()
        .map(|token| {
            json!([
                token.name,
                token.taken,
                token.contended,
                token.wait_ns,
                token.longest_wait_ns
            ])
        })
        .collect();
    // By CPU, then by time: the page thins out neighbours.
    let mut by_cpu = trace.notes.clone();
    by_cpu.sort_by_key(|note| note.cpu);
    let notes: Vec<Value> = by_cpu
        .iter()
        .map(|note| {
            let text = match note.kind {
                NoteKind::Mark(value) => format!("mark {value}"),
                NoteKind::Watchdog(ms) => format!("watchdog: this poll has run for {ms} ms"),
            };
            json!([note.cpu, note.time_ns - trace.start_ns, note.thread, text])
        })
        .collect();
    let matrix: Vec<Vec<[u64; 2]>> = trace
        .ipi_matrix()
        .iter()
        .map(|row| row.iter().map(|cell| [cell.sent, cell.doorbells]).collect())
        .collect();
    let health = &trace.health;
    json!({
        "host": trace.hostname,
        "start": trace.start_ns,
        "duration": trace.duration_ns(),
        "records": trace.record_count(),
        "lost": trace.lost_count(),
        "complete": trace.complete,
        "damage": {
            "frames with a bad checksum": health.bad_checksums,
            "pieces of input that are no frame": health.broken_frames,
            "frames of another version": health.unknown_frames,
            "records sent twice and counted once": health.repeated_records,
            "records of an earlier boot left out": health.earlier_boot_records,
            "records with an unknown event": trace.unknown_events,
            "ends without a begin": trace.unmatched,
            "arrivals recorded before their departures": trace.early.count,
        },
        "threads": threads,
        "tokens": tokens,
        "notes": notes,
        "matrix": matrix,
        "cpus": trace.cpus.iter().map(|cpu| cpu_data(cpu, trace.start_ns)).collect::<Vec<_>>(),
        "wakes": wakes(trace),
        "ipis": ipis(trace),
        "messages": messages(trace),
        "waits": token_waits(trace),
    })
}

fn cpu_data(cpu: &CpuTimeline, start_ns: u64) -> Value {
    // Polls: time since the end of the one before, duration, thread, end reason (4 = unknown) and
    // 8 if cut, run queue, and 1 + wake-to-run time (0 = unknown).
    let mut polls = Column::default();
    let mut at_ns = start_ns;
    for poll in &cpu.polls {
        polls.put(poll.span.begin_ns.saturating_sub(at_ns));
        polls.put(poll.span.duration_ns());
        polls.put(u64::from(poll.thread));
        polls.put(poll.end.map_or(4, |end| end as u64) | if poll.cut { 8 } else { 0 });
        polls.put(u64::from(poll.queue_depth));
        polls.put(poll.latency_ns.map_or(0, |latency_ns| latency_ns + 1));
        at_ns = poll.span.end_ns;
    }
    // Idle time: time since the end of the one before, duration.
    let mut idle = Column::default();
    let mut at_ns = start_ns;
    for span in &cpu.idle {
        idle.put(span.begin_ns.saturating_sub(at_ns));
        idle.put(span.duration_ns());
        at_ns = span.end_ns;
    }
    // Interrupts: time since the begin of the one before, duration, line, nesting.
    let mut by_begin = cpu.interrupts.clone();
    by_begin.sort_by_key(|interrupt| interrupt.span.begin_ns);
    let mut interrupts = Column::default();
    let mut at_ns = start_ns;
    for interrupt in &by_begin {
        interrupts.put(interrupt.span.begin_ns.saturating_sub(at_ns));
        interrupts.put(interrupt.span.duration_ns());
        interrupts.put(u64::from(interrupt.line));
        interrupts.put(u64::from(interrupt.nesting));
        at_ns = interrupt.span.begin_ns;
    }
    // Run queue: time since the one before, depth.
    let mut depth = Column::default();
    let mut at_ns = start_ns;
    for (time_ns, threads) in &cpu.queue_depth {
        depth.put(time_ns.saturating_sub(at_ns));
        depth.put(u64::from(*threads));
        at_ns = *time_ns;
    }
    let gaps: Vec<Value> = cpu
        .gaps
        .iter()
        .map(|gap| {
            let begin_ns = gap.span.begin_ns - start_ns;
            json!([
                begin_ns,
                gap.span.end_ns - start_ns,
                gap.lost,
                gap.lost_in_ring
            ])
        })
        .collect();
    json!({
        "polls": polls.into_base64(),
        "idle": idle.into_base64(),
        "interrupts": interrupts.into_base64(),
        "depth": depth.into_base64(),
        "gaps": gaps,
        "covered": cpu.covered.duration_ns(),
        "records": cpu.records,
        "inline": cpu.inline_calls,
        "timers": cpu.timer_fires,
    })
}

/// Wakes that were answered: time since the one before, CPU, time to the run, thread,
/// 1 + waker (0 = an interrupt), 1 if a spawn; and the CPU of the waker.
fn wakes(trace: &Trace) -> String {
    let mut column = Column::default();
    let mut at_ns = trace.start_ns;
    for wake in &trace.wakes {
        let Some(run_ns) = wake.run_ns else { continue };
        column.put(wake.time_ns.saturating_sub(at_ns));
        column.put(u64::from(wake.cpu));
        column.put(run_ns.saturating_sub(wake.time_ns));
        column.put(u64::from(wake.thread));
        column.put(wake.waker.map_or(0, |waker| u64::from(waker) + 1));
        column.put(u64::from(wake.is_spawn));
        column.put(u64::from(wake.from_cpu));
        at_ns = wake.time_ns;
    }
    column.into_base64()
}

/// IPI messages with both ends: time since the one before, sender, target, time to the receipt,
/// 1 if a doorbell was rung.
fn ipis(trace: &Trace) -> String {
    let mut column = Column::default();
    let mut at_ns = trace.start_ns;
    for ipi in &trace.ipis {
        let (Some(sent_ns), Some(received_ns)) = (ipi.sent_ns, ipi.received_ns) else {
            continue;
        };
        column.put(sent_ns.saturating_sub(at_ns));
        column.put(u64::from(ipi.from));
        column.put(u64::from(ipi.to));
        column.put(received_ns.saturating_sub(sent_ns));
        column.put(u64::from(ipi.doorbell));
        at_ns = sent_ns;
    }
    column.into_base64()
}

/// Port messages that were sent and taken: time since the one before, sender, target, time to the
/// taking, 1 + time from there to the reply (0 = none), CPU of the reply, 1 + caller, 1 + server.
fn messages(trace: &Trace) -> String {
    let mut column = Column::default();
    let mut at_ns = trace.start_ns;
    for message in &trace.messages {
        let (Some((from, sent_ns)), Some((to, taken_ns))) = (message.sent, message.taken) else {
            continue;
        };
        column.put(sent_ns.saturating_sub(at_ns));
        column.put(u64::from(from));
        column.put(u64::from(to));
        column.put(taken_ns.saturating_sub(sent_ns));
        column.put(
            message
                .replied
                .map_or(0, |(_, ns)| ns.saturating_sub(taken_ns) + 1),
        );
        column.put(
            message
                .replied
                .map_or(u64::from(to), |(cpu, _)| u64::from(cpu)),
        );
        column.put(message.caller.map_or(0, |caller| u64::from(caller) + 1));
        column.put(message.server.map_or(0, |server| u64::from(server) + 1));
        at_ns = sent_ns;
    }
    column.into_base64()
}

/// Waits for tokens: begin since the start, duration, CPU, thread, token.
fn token_waits(trace: &Trace) -> String {
    let mut column = Column::default();
    for wait in &trace.token_waits {
        column.put(wait.span.begin_ns.saturating_sub(trace.start_ns));
        column.put(wait.span.duration_ns());
        column.put(u64::from(wait.cpu));
        column.put(u64::from(wait.thread));
        column.put(u64::from(wait.token));
    }
    column.into_base64()
}

/// A list of numbers as varints.
#[derive(Default)]
struct Column(Vec<u8>);

impl Column {
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn into_base64(self) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(self.0.len().div_ceil(3) * 4);
        for chunk in self.0.chunks(3) {
            let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                if digit <= chunk.len() {
                    text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
                } else {
                    text.push('=');
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, section 10.
    #[test]
    fn base64_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(Column(plain.as_bytes().to_vec()).into_base64(), encoded);
        }
    }

    #[test]
    fn a_thread_name_cannot_end_the_script_element() {
        let mut trace = Trace::default();
        let name = "</script><b>".to_owned();
        trace.threads.push(crate::trace::model::Thread {
            name,
            ..Default::default()
        });
        let mut page = Vec::new();
        write(&trace, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(!page.contains("</script><b>"));
        assert!(page.contains("\\u003c/script>\\u003cb>") || page.contains("\\u003c/script>"));
        for marker in ["<!-- style -->", "<!-- data -->", "<!-- program -->"] {
            assert!(!page.contains(marker), "{marker} was not replaced");
        }
    }
}
