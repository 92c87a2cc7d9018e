//! `bench-executor`: the executor beside its peers and the bare hardware, in one program.
//!
//! [`rows`] is the table of what is measured, [`curves`] that of what must stay flat. Every subject of a case runs the same
//! traffic on fresh, pinned threads, in turns with the others ([`measure`]); a figure is the median of the rounds. Each
//! peer is configured in its own favour, and its module says how, which is printed. Built with the kernel's profile,
//! because that is how the executor runs.

mod allocations;
mod bare;
mod charts;
mod curves;
mod host;
mod judge;
mod measure;
mod memory;
mod ours;
mod peers;
mod rows;
mod slabs;
mod timers;
mod traffic;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::error::ErrorKind;
use tools::bench::report::{self, Row};

use judge::Line;
use measure::Effort;
use rows::Role;

/// How wide a note is printed.
const WIDTH: usize = 110;

/// Measures the executor beside its peers. Status 0 only if every figure keeps to its limit.
#[derive(Parser)]
struct Arguments {
    /// Print JSON, one object a row
    #[arg(long)]
    json: bool,
    /// Draw a chart of what was measured
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Instead of the rows: what an operation costs among a hundred things and among a million
    #[arg(long)]
    curves: bool,
    /// How often each subject is measured
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// At most 11 short rounds, of a tenth of each million: for a look, not for a claim
    #[arg(long)]
    quick: bool,
    /// Only the rows or curves whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only the subject of this name, without judging it: for a profiler
    #[arg(long, value_name = "NAME", conflicts_with = "curves")]
    subject: Option<String>,
}

/// What was measured: rows, notes for people, and a chart.
struct Outcome {
    rows: Vec<Row>,
    notes: Vec<String>,
    svg: String,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    refuse_what_cannot_be(&arguments);
    host::raise_locked_memory();
    slabs::reserve()?;
    let effort = Effort {
        rounds: arguments
            .rounds
            .min(if arguments.quick { 11 } else { 1000 }),
        sample_ns: if arguments.quick { 1e6 } else { 2e6 },
        quick: arguments.quick,
    };
    let outcome = if arguments.curves {
        curves(effort, &arguments)
    } else {
        table(effort, &arguments)
    };
    if arguments.json {
        report::print(&outcome.rows, true)?;
    } else {
        print!("{}", report::table(&outcome.rows));
        for note in &outcome.notes {
            print!("{}", wrapped(note));
        }
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, outcome.svg)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let good = outcome.rows.iter().all(|row| row.ok);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Ends with status 2 where minutes of measuring would come to nothing.
fn refuse_what_cannot_be(arguments: &Arguments) {
    let refuse = |kind, message: String| clap::Error::raw(kind, message).exit();
    let rows = || {
        rows::CASES
            .iter()
            .filter(|case| wanted(case.name, arguments))
    };
    let curves = || {
        let mut curves = curves::CURVES.iter();
        curves.any(|curve| wanted(curve.panel, arguments) || wanted(curve.name, arguments))
    };
    let something = if arguments.curves {
        curves()
    } else {
        rows().next().is_some()
    };
    if !something {
        let text = arguments.only.as_deref().unwrap_or_default();
        let names: Vec<_> = rows::CASES.iter().map(|case| case.name).collect();
        let message = format!(
            "no row's name contains `{text}`; they are:\n  {}\n",
            names.join("\n  ")
        );
        refuse(ErrorKind::InvalidValue, message);
    }
    if let Some(name) = &arguments.subject {
        let subjects = rows().flat_map(|case| case.subjects);
        let names: BTreeSet<_> = subjects.map(|subject| subject.name).collect();
        if !names.contains(name.as_str()) {
            let names: Vec<_> = names.into_iter().collect();
            let message = format!(
                "no subject of these rows is called `{name}`; they are:\n  {}\n",
                names.join("\n  ")
            );
            refuse(ErrorKind::InvalidValue, message);
        }
    }
    if let Some(file) = &arguments.svg
        && let Err(error) = std::fs::File::options()
            .create(true)
            .append(true)
            .open(file)
    {
        let message = format!("cannot write {}: {error}\n", file.display());
        refuse(ErrorKind::Io, message);
    }
}

fn wanted(name: &str, arguments: &Arguments) -> bool {
    let only = arguments.only.as_deref();
    only.is_none_or(|text| name.contains(text))
}

fn table(effort: Effort, arguments: &Arguments) -> Outcome {
    let cases = rows::CASES.iter();
    let cases = cases.filter(|case| wanted(case.name, arguments));
    let lines: Vec<Line> = cases
        .flat_map(|case| case.measure(effort, arguments.subject.as_deref()))
        .collect();
    let svg = charts::bars(&lines);
    let mut notes = Vec::new();
    for line in &lines {
        if let Role::Ours { because, .. } = line.role
            && !line.row.ok
        {
            let why = if because.is_empty() {
                "no reason is known"
            } else {
                because
            };
            notes.push(format!("NOT REACHED, {}: {why}.", line.row.row));
        }
    }
    let mut busy: Vec<_> = lines.iter().filter(|line| line.busy).collect();
    busy.dedup_by_key(|line| line.case.name);
    if !busy.is_empty() {
        let names: Vec<_> = busy.iter().map(|line| line.case.name).collect();
        notes.push(format!(
            "THE HOST WAS BUSY: other programs interrupted most samples of some subject of {}.",
            names.join("; ")
        ));
    }
    for case in lines.chunk_by(|a, b| a.case.name == b.case.name) {
        let case = case[0].case;
        if !case.note.is_empty() {
            notes.push(format!(
                "{}: {}.",
                case.name,
                case.note.trim_end_matches('.')
            ));
        }
    }
    for (name, favour) in rows::FAVOURS {
        if lines.iter().any(|line| line.subject.starts_with(name)) {
            notes.push(format!("{name}, in its favour: {favour}"));
        }
    }
    let rows = lines.into_iter().map(|line| {
        let mut row = line.row.clone();
        if !arguments.json {
            row.row = match line.row.row.split_once(": ours") {
                Some((case, which)) => format!("{case}{which}"),
                None => format!("  {}", line.subject),
            };
        }
        row
    });
    Outcome {
        rows: rows.collect(),
        notes,
        svg,
    }
}

fn curves(effort: Effort, arguments: &Arguments) -> Outcome {
    let curves = curves::CURVES.iter();
    let measured: Vec<_> = curves
        .filter(|curve| wanted(curve.panel, arguments) || wanted(curve.name, arguments))
        .map(|curve| curve.measure(effort))
        .collect();
    let steep = measured
        .iter()
        .filter(|curve| curve.rows.iter().any(|row| !row.ok));
    let notes = steep.map(|points| {
        let curve = points.curve;
        let why = if curve.because.is_empty() {
            "no reason is known"
        } else {
            curve.because
        };
        format!("NOT FLAT, {}, {}: {why}.", curve.panel, curve.name)
    });
    Outcome {
        notes: notes.collect(),
        svg: charts::curves(&measured),
        rows: measured
            .into_iter()
            .flat_map(|points| points.rows)
            .collect(),
    }
}

/// A note in lines of at most [`WIDTH`], all but the first indented.
fn wrapped(note: &str) -> String {
    let mut text = String::new();
    let mut length = 0;
    for word in note.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > WIDTH {
            text.push_str("\n  ");
            length = 2;
        } else if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word_length;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_wrapped_between_words() {
        let text = wrapped(&"word ".repeat(40));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= WIDTH));
        assert!(lines[1].starts_with("  word"));
    }
}
