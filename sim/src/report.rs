//! What is said of a run: its story, the promise it broke, the last events of each CPU, its trace in files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tools::trace::model::Trace;
use tools::trace::text::{self, Style};
use tools::trace::{convert, html, perfetto};

use crate::act::Seconds;
use crate::run::Outcome;

/// Events shown of each CPU.
const LAST_EVENTS: usize = 12;

/// Writes what happened, in words.
pub fn story(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    for (at_ns, line) in &outcome.story {
        writeln!(out, "[{:>14}] {line}", Seconds(*at_ns).to_string())?;
    }
    Ok(())
}

/// Writes the broken promise, if there is one.
pub fn verdict(
    scenario: &str,
    seed: u64,
    outcome: &Outcome,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some((at_ns, violation)) = &outcome.violation else {
        return Ok(());
    };
    writeln!(out, "\nBROKEN: {}", violation.rule)?;
    writeln!(out, "  seen      {}", violation.seen)?;
    writeln!(out, "  seed      {seed} of {scenario}")?;
    writeln!(out, "  at        {} s", Seconds(*at_ns))
}

/// Writes the last events of each CPU of a traced run.
pub fn last_events(outcome: &Outcome, names: &[String], out: &mut dyn Write) -> io::Result<()> {
    let Some(recorder) = &outcome.recorder else {
        return Ok(());
    };
    let per_node = recorder.cpu_count() / names.len().max(1);
    for cpu in 0..recorder.cpu_count() {
        let records = recorder.records(cpu);
        writeln!(
            out,
            "\nthe last events of {} cpu{}:",
            names[cpu / per_node],
            cpu % per_node
        )?;
        for record in &records[records.len().saturating_sub(LAST_EVENTS)..] {
            let name = record.event().map_or("unknown event", |event| event.name());
            let (small, thread, arg) = (record.small(), record.thread(), record.arg());
            writeln!(
                out,
                "  [{:>14}] {name:<14} small={small} thread={thread} arg={arg:#x}",
                Seconds(record.time_ns).to_string()
            )?;
        }
    }
    Ok(())
}

/// Writes a traced run's trace as text, for Perfetto and as a page: `PREFIX.txt`, `.pftrace`, `.html`, and the stream itself
/// as `.bin`.
///
/// # Errors
/// The file that cannot be written.
pub fn write_trace(outcome: &Outcome, host: &str, prefix: &Path) -> Result<Vec<PathBuf>> {
    let Some(recorder) = &outcome.recorder else {
        return Ok(Vec::new());
    };
    if let Some(folder) = prefix.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let stream = recorder.stream(host);
    let trace = convert(&stream);
    type Writer<'a> = &'a dyn Fn(&Trace, &mut dyn Write) -> io::Result<()>;
    let text: Writer<'_> = &|trace, out| text::write_dump(trace, Style::Plain, out);
    let files: [(&str, Writer<'_>); 4] = [
        ("txt", text),
        ("pftrace", &|trace, out| perfetto::write(trace, out)),
        ("html", &|trace, out| html::write(trace, out)),
        ("bin", &|_, out| out.write_all(&stream)),
    ];
    let mut written = Vec::new();
    for (extension, write) in files {
        let path = PathBuf::from(format!("{}.{extension}", prefix.display()));
        let create = || -> io::Result<()> {
            let mut file = BufWriter::new(File::create(&path)?);
            write(&trace, &mut file)?;
            file.flush()
        };
        create().with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}
