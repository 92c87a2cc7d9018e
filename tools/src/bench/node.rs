//! `bench executor --qemu`: what the executor costs inside a VM, in cycles and interrupts, as the kernel's own `bench`
//! command counts them.
//!
//! An emulated CPU's nanoseconds are the emulator's. What holds there as on hardware are the counters (two busy CPUs
//! exchange messages without one hardware interrupt) and how a cost changes with the number of CPUs, which is judged by
//! the processor time that the node's process takes for an operation: CPUs in excess of the host's cores wait for one
//! another, and for whatever else the host runs. Beside a yield stands a bare turn, which has no executor, among as many
//! CPUs in the same run: what grows there, too, is the emulator's.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::report::{Row, median_and_spread};
use crate::host;
use crate::node::{NodeKind, NodeSpec};
use crate::running::{ConsoleLine, processor_time};

/// CPUs of the node whose every row is shown, and of the one that shows how costs scale.
const FEW_CPUS: u32 = 2;
const MANY_CPUS: u32 = 64;
const START_LIMIT: Duration = Duration::from_secs(60);
const BENCH_LIMIT: Duration = Duration::from_secs(300);
/// How often the second is measured at most: it takes a quarter of a minute.
const MANY_RUNS: u32 = 3;
/// How much dearer an operation may be with many CPUs.
const FLAT: f64 = 1.5;

/// A row of the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    times: f64,
    ns: f64,
    cycles: Option<f64>,
    messages: f64,
    doorbells: f64,
    /// Of the host's processors, for each.
    processor_ns: f64,
}

/// The rows of a kernel's table.
type Table = BTreeMap<String, Figure>;

/// Measures `runs` times with few CPUs and up to three times with many. `say` gets the progress.
///
/// # Errors
/// A node did not do as it was told.
pub fn run(kind: NodeKind, runs: u32, mut say: impl FnMut(&str)) -> Result<Vec<Row>> {
    let kernel = kind.build()?;
    let mut measure = |cpus: u32| {
        host::check_interrupt()?;
        say(&format!("{cpus} CPUs"));
        let spec = NodeSpec {
            cpus,
            ..NodeSpec::new("anax", kind, kernel.clone())
        };
        let (sender, lines) = mpsc::channel::<ConsoleLine>();
        let mut node = spec.start(Some(sender))?;
        let process = node.process();
        // A row is printed when it has been measured, and then the next one is.
        let watch = thread::spawn(move || -> Vec<(String, Duration)> {
            let used = |line: ConsoleLine| Some((line.text, processor_time(process).ok()?));
            lines.into_iter().filter_map(used).collect()
        });
        node.wait_for_prompt(START_LIMIT)?;
        node.command("bench", BENCH_LIMIT)?;
        node.type_line("poweroff")?;
        node.wait_for_exit(START_LIMIT)?;
        read(&watch.join().expect("it does not panic"))
    };
    let mut tables = |cpus, runs| {
        (0..runs)
            .map(|_| measure(cpus))
            .collect::<Result<Vec<Table>>>()
    };
    let few = tables(FEW_CPUS, runs)?;
    let many = tables(MANY_CPUS, runs.min(MANY_RUNS))?;
    Ok(rows(&few, &many))
}

/// The kernel's table, by the names of its rows, from its lines and the processor time that was used when they came.
fn read(lines: &[(String, Duration)]) -> Result<Table> {
    let mut figures = BTreeMap::new();
    let mut lines = lines
        .iter()
        .skip_while(|(line, _)| !line.starts_with("operation"));
    let mut before = lines.next().map_or(Duration::ZERO, |(_, used)| *used);
    for (line, used) in lines {
        let since = used.saturating_sub(before);
        before = *used;
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((name, columns)) = words.len().checked_sub(5).map(|at| words.split_at(at)) else {
            continue;
        };
        let number = |at: usize| columns[at].parse::<f64>();
        let figure = || -> Result<Figure> {
            Ok(Figure {
                times: number(0)?,
                ns: number(1)?,
                cycles: (columns[2] != "-").then(|| number(2)).transpose()?,
                messages: number(3)?,
                doorbells: number(4)?,
                processor_ns: since.as_nanos() as f64 / number(0)?,
            })
        };
        let figure = figure().with_context(|| format!("the kernel's bench printed: {line}"))?;
        figures.insert(name.join(" "), figure);
    }
    if figures.is_empty() {
        bail!("the kernel's bench printed no figures");
    }
    Ok(figures)
}

const PING_PONG: &str = "port call to another CPU, awake";

/// What is measured with one CPU or two and then with twice as many, and what of the emulator's that includes. A ring,
/// whose CPUs wait for each other's wakes, is judged by the time that passes on the host's cores instead.
const SCALING: [(&str, u32, Option<&str>); 3] = [
    ("yield, no clock,", 1, Some("bare turn")),
    ("yield", 1, Some("bare turn, clock,")),
    ("ring of port calls", 2, None),
];

fn rows(few: &[Table], many: &[Table]) -> Vec<Row> {
    let mut rows = Vec::new();
    let row =
        |name: &str, unit: &str, samples: Vec<f64>| Row::new("executor", name, unit, &samples);
    for name in few
        .iter()
        .flat_map(BTreeMap::keys)
        .collect::<std::collections::BTreeSet<_>>()
    {
        let figures = || few.iter().filter_map(|table| table.get(name));
        rows.push(row(name, "ns", figures().map(|figure| figure.ns).collect()));
        let cycles: Vec<f64> = figures().filter_map(|figure| figure.cycles).collect();
        if !cycles.is_empty() {
            rows.push(row("  cycles", "", cycles));
        }
        if figures().any(|figure| figure.messages != 0.0) {
            let each = |count: fn(&Figure) -> f64| {
                figures()
                    .map(|figure| count(figure) / figure.times)
                    .collect()
            };
            rows.push(row("  messages each", "", each(|figure| figure.messages)));
            let doorbells = row("  hardware IPIs each", "", each(|figure| figure.doorbells));
            // Awake is awake: not one of twenty thousand.
            rows.push(if name == PING_PONG {
                doorbells.at_most(0.0)
            } else {
                doorbells
            });
        }
    }
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get()) as f64;
    // How much more of the host's processors it takes on so many CPUs, in each run.
    let growth = |what: &str, first: u32, cpus: u32| -> Vec<f64> {
        let of = |table: &Table, cpus: u32| {
            let figure = table.get(&format!("{what} on {cpus} CPUs"))?;
            Some(match first {
                1 => figure.processor_ns,
                _ => figure.ns * cores.min(f64::from(cpus)),
            })
        };
        many.iter()
            .filter_map(|table| Some(of(table, cpus)? / of(table, first)?))
            .collect()
    };
    for (what, first, bare) in SCALING {
        let doubling = std::iter::successors(Some(first * 2), |cpus| Some(cpus * 2));
        for cpus in doubling.take_while(|cpus| *cpus <= MANY_CPUS) {
            let name = format!("{what} on {cpus} CPUs, beside {first}");
            let scaling = row(&name, "x", growth(what, first, cpus));
            rows.push(match bare {
                None => scaling.at_most(FLAT),
                Some(bare) => {
                    let (limit, _) = median_and_spread(&growth(bare, first, cpus));
                    scaling.beside(bare, limit).at_most(FLAT.max(limit))
                }
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
bench\r
operation                              times     ns each    cycles  messages doorbells\r
yield, 10 threads                     200000        52.1       104         0         0\r
port call to another CPU, awake        20000      2621.5         -     40000         3\r
";

    /// The lines of a table, 20 ms of processor time from each to the next.
    fn lines(table: &str) -> Vec<(String, Duration)> {
        let used = (0..).map(|row| Duration::from_millis(20 * row));
        table.lines().map(str::to_owned).zip(used).collect()
    }

    #[test]
    fn a_table_of_the_kernel_is_read() {
        let figures = read(&lines(TABLE)).unwrap();
        assert_eq!(figures.len(), 2);
        assert_eq!(figures["yield, 10 threads"].cycles, Some(104.0));
        assert_eq!(figures["yield, 10 threads"].processor_ns, 100.0);
        assert_eq!(figures[PING_PONG].ns, 2621.5);
        assert!(read(&lines("bench\r\nbench: no\r\n")).is_err());
    }

    #[test]
    fn a_doorbell_between_busy_cpus_is_a_failure() {
        let rows = rows(&[read(&lines(TABLE)).unwrap()], &[]);
        let doorbells = rows.iter().rfind(|row| row.row.contains("hardware IPIs"));
        assert!(!doorbells.unwrap().ok);
        // What the large node did not measure is not good either.
        assert!(rows.iter().filter(|row| row.unit == "x").all(|row| !row.ok));
    }

    /// A table in which each of these takes so much more processor time on 64 CPUs.
    fn scaled(growth: &[(&str, f64)]) -> Table {
        let figure = |processor_ns| Figure {
            times: 1.0,
            ns: 1.0,
            cycles: None,
            messages: 0.0,
            doorbells: 0.0,
            processor_ns,
        };
        let both = |(what, growth): &(&str, f64)| {
            [(1, 10.0), (64, 10.0 * growth)]
                .map(|(cpus, ns)| (format!("{what} on {cpus} CPUs"), figure(ns)))
        };
        growth.iter().flat_map(both).collect()
    }

    #[test]
    fn what_grows_as_a_bare_turn_does_is_the_emulators() {
        let good = |what: &str, table: Table| {
            let name = format!("{what} on 64 CPUs, beside 1");
            let rows = rows(&[], &[table]);
            rows.iter().find(|row| row.row == name).unwrap().ok
        };
        let grown = |ours, bare| scaled(&[("yield", ours), ("bare turn, clock,", bare)]);
        assert!(good("yield", grown(2.5, 6.0)));
        assert!(good("yield", grown(1.4, 1.0)));
        assert!(!good("yield", grown(2.5, 1.2)));
    }
}
