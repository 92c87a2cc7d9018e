//! `bench executor --qemu`: what the executor costs inside a VM, in cycles and interrupts, as the kernel's own `bench`
//! command counts them.
//!
//! An emulated CPU's nanoseconds are the emulator's. What holds there as on hardware are the counters (two busy CPUs
//! exchange messages without one hardware interrupt) and how a cost changes with the number of CPUs, which is judged by
//! the processor time that an operation takes: CPUs in excess of the host's cores wait for one another.

use std::collections::BTreeMap;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::report::Row;
use crate::host;
use crate::node::{NodeKind, NodeSpec};

/// CPUs of the node whose every row is shown, and of the one that shows how costs scale.
const FEW_CPUS: u32 = 2;
const MANY_CPUS: u32 = 64;
const START_LIMIT: Duration = Duration::from_secs(60);
const BENCH_LIMIT: Duration = Duration::from_secs(300);
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
}

/// Measures `runs` times with few CPUs and once with many. `say` gets the progress.
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
        let mut node = spec.start(None)?;
        node.wait_for_prompt(START_LIMIT)?;
        let text = node.command("bench", BENCH_LIMIT)?;
        node.type_line("poweroff")?;
        node.wait_for_exit(START_LIMIT)?;
        read(&text)
    };
    let few = (0..runs)
        .map(|_| measure(FEW_CPUS))
        .collect::<Result<Vec<_>>>()?;
    let many = measure(MANY_CPUS)?;
    Ok(rows(&few, &many))
}

/// The kernel's table, by the names of its rows.
fn read(text: &str) -> Result<BTreeMap<String, Figure>> {
    let mut figures = BTreeMap::new();
    for line in text
        .lines()
        .skip_while(|line| !line.starts_with("operation"))
        .skip(1)
    {
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
            })
        };
        let figure = figure().with_context(|| format!("the kernel's bench printed: {line}"))?;
        figures.insert(name.join(" "), figure);
    }
    if figures.is_empty() {
        bail!("the kernel's bench printed no figures: {text}");
    }
    Ok(figures)
}

const PING_PONG: &str = "port call to another CPU, awake";

fn rows(few: &[BTreeMap<String, Figure>], many: &BTreeMap<String, Figure>) -> Vec<Row> {
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
    let cores = available_parallelism().map_or(1, |cores| cores.get()) as f64;
    for (what, first) in [("yield on", 1.0), ("ring of port calls on", 2.0)] {
        let processor_ns = |cpus: f64| {
            let figure = many.get(&format!("{what} {cpus} CPUs"))?;
            Some(figure.ns * cores.min(cpus))
        };
        let mut cpus = first * 2.0;
        while cpus <= f64::from(MANY_CPUS) {
            let ratio = processor_ns(cpus)
                .zip(processor_ns(first))
                .map(|(now, then)| now / then);
            let name = format!("{what} {cpus} CPUs, beside {first}");
            rows.push(row(&name, "x", ratio.into_iter().collect()).at_most(FLAT));
            cpus *= 2.0;
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

    #[test]
    fn a_table_of_the_kernel_is_read() {
        let figures = read(TABLE).unwrap();
        assert_eq!(figures.len(), 2);
        assert_eq!(figures["yield, 10 threads"].cycles, Some(104.0));
        assert_eq!(figures[PING_PONG].ns, 2621.5);
        assert!(read("bench\r\nbench: no\r\n").is_err());
    }

    #[test]
    fn a_doorbell_between_busy_cpus_is_a_failure() {
        let rows = rows(&[read(TABLE).unwrap()], &BTreeMap::new());
        let doorbells = rows.iter().rfind(|row| row.row.contains("hardware IPIs"));
        assert!(!doorbells.unwrap().ok);
        // What the large node did not measure is not good either.
        assert!(rows.iter().filter(|row| row.unit == "x").all(|row| !row.ok));
    }
}
