//! `sim`: runs seeds of a scenario, shows what broke, and makes it smaller.
//!
//! Exit status: 0 every promise was kept, 1 one was broken or something went wrong, 2 a wrong command line, 130
//! interrupted.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;
use executor::trace::ClassMask;
use serde_json::json;
use sim::act::{Seconds, node_name};
use sim::many::{Order, Sum, many};
use sim::run::{self, Outcome, run};
use sim::scenarios::{self, Options, Scenario};
use sim::{report, shrink};

/// Memory of a node, and more for each CPU; hard.
const NODE_BYTES: usize = 16 << 20;
const CPU_BYTES: usize = 4 << 20;
/// CPUs of a node where the seed chooses.
const USUAL_CPUS: u8 = 5;
/// Nodes that runs which fail may leave behind for good.
const SPARE_NODES: usize = 64;
/// Nodes that one run may have at a time.
const NODES: usize = 8;

/// Runs whole clusters of kernels from one seed, in virtual time.
///
/// The same seed gives the same run, on any machine. With --seeds many are run on all cores until one breaks a promise;
/// that one is then run again with its trace on.
#[derive(Parser)]
#[command(name = "sim", bin_name = "./run.sh sim", version)]
struct Arguments {
    /// What happens: a scenario's name; `list` lists them
    #[arg(long, default_value = "carp", value_name = "NAME")]
    scenario: String,
    /// The seed, or the first of many
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Run so many seeds, one after the other
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Go on after a seed that fails
    #[arg(long, requires = "seeds")]
    keep_going: bool,
    /// Runs at a time [default: one for each core]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Look for a shorter list of what happens that still breaks the same promise
    #[arg(long)]
    shrink: bool,
    /// Of what happens only these, by their numbers, such as 0,3,4 (as --shrink prints them), or none
    #[arg(long, value_name = "NUMBERS", value_parser = numbers, conflicts_with = "seeds")]
    only: Option<Numbers>,
    /// Write the trace of the run to FILE.txt, FILE.pftrace, FILE.html and FILE.bin
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    trace: Option<PathBuf>,
    /// Print what happened, line by line
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// Nodes [default: the seed chooses]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: Option<u8>,
    /// CPUs of each node [default: the seed chooses]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
    cpus: Option<u8>,
    /// Nothing goes wrong
    #[arg(long)]
    peaceful: bool,
    /// Nobody pings
    #[arg(long)]
    no_client: bool,
    /// Milliseconds between two pings [default: the scenario's]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    ping: Option<u64>,
    /// Virtual seconds [default: as long as the story needs]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    length: Option<u64>,
}

/// Numbers of acts.
#[derive(Clone, Debug, Default)]
struct Numbers(Vec<usize>);

fn numbers(words: &str) -> Result<Numbers, String> {
    if words == "none" {
        return Ok(Numbers::default());
    }
    let number = |word: &str| word.parse().map_err(|_| format!("{word}: not a number"));
    words
        .split(',')
        .map(number)
        .collect::<Result<_, _>>()
        .map(Numbers)
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            nodes: self.nodes.map(usize::from),
            cpus: self.cpus.map(usize::from),
            no_client: self.no_client,
            ping_ns: self.ping.map(|ms| ms * 1_000_000),
            length_ns: self.length.map(|seconds| seconds * 1_000_000_000),
            peaceful: self.peaceful,
        }
    }

    fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or(cores, usize::from)
    }

    /// The words that make the same run again.
    fn again(&self, seed: u64, only: Option<&[usize]>) -> String {
        let mut words = format!("./run.sh sim --scenario {} --seed {seed}", self.scenario);
        let numbers = [
            ("nodes", self.nodes.map(u64::from)),
            ("cpus", self.cpus.map(u64::from)),
            ("ping", self.ping),
            ("length", self.length),
        ];
        for (name, value) in numbers {
            words += &value.map_or(String::new(), |value| format!(" --{name} {value}"));
        }
        for (name, set) in [("peaceful", self.peaceful), ("no-client", self.no_client)] {
            words += &if set {
                format!(" --{name}")
            } else {
                String::new()
            };
        }
        if let Some(only) = only {
            let numbers: Vec<String> = only.iter().map(usize::to_string).collect();
            let numbers = numbers.join(",");
            words += &format!(
                " --only {}",
                if numbers.is_empty() { "none" } else { &numbers }
            );
        }
        words
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Panics are remembered, not printed; one of the simulator's own must not go unsaid.
    let outcome = std::panic::catch_unwind(|| start(&arguments)).unwrap_or_else(|payload| {
        Err(anyhow::anyhow!(
            "a bug of the simulator: {}",
            sim::crash::what_panicked(&*payload)
        ))
    });
    match outcome {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads has read enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn start(arguments: &Arguments) -> Result<ExitCode> {
    let out = &mut std::io::stdout();
    if arguments.scenario == "list" {
        for scenario in scenarios::ALL {
            writeln!(out, "{:<10} {}", scenario.name, scenario.summary)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(scenario) = scenarios::find(&arguments.scenario) else {
        eprintln!(
            "sim: no scenario {}; `--scenario list` lists them",
            arguments.scenario
        );
        return Ok(ExitCode::from(2));
    };
    let cpus = usize::from(arguments.cpus.unwrap_or(USUAL_CPUS));
    let nodes = arguments.jobs() * (NODES + 2) + SPARE_NODES;
    kernel::platform::arena::reserve(nodes, NODE_BYTES + cpus * CPU_BYTES)
        .context("cannot reserve addresses for the nodes' memory; fewer --jobs need less")?;
    sim::crash::tell_seeds().context("cannot catch faults")?;
    sim::crash::remember_panics();
    match arguments.seeds {
        None => one(arguments, scenario, arguments.seed),
        Some(count) => several(arguments, scenario, count),
    }
}

/// Many seeds; the first that fails is shown like one.
fn several(arguments: &Arguments, scenario: &Scenario, count: u64) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let order = Order {
        scenario,
        first: arguments.seed,
        count,
        jobs: arguments.jobs(),
        options: arguments.options(),
        keep_going: arguments.keep_going,
    };
    let sum = many(&order, &stop);
    if arguments.json {
        writeln!(std::io::stdout(), "{}", sum.json(scenario.name))?;
    } else {
        write!(std::io::stdout(), "{}", in_words(scenario.name, &sum))?;
    }
    if let Some((seed, ..)) = sum.failed.first() {
        if !arguments.json {
            return one(arguments, scenario, *seed);
        }
        return Ok(ExitCode::FAILURE);
    }
    if stop.load(Ordering::Relaxed) {
        eprintln!("sim: interrupted after {} of {count} seeds", sum.runs);
        return Ok(ExitCode::from(130));
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(scenario: &str, sum: &Sum) -> String {
    let seconds = sum.took.as_secs_f64().max(1e-9);
    let mut text = format!(
        "{scenario}: {} seeds, {} failed, {} steps, {:.2} virtual hours, {} faults in {seconds:.1} s ({:.0} seeds/s)\n",
        sum.runs,
        sum.failed.len(),
        sum.steps,
        sum.virtual_ns as f64 / 3.6e12,
        sum.faults,
        sum.runs as f64 / seconds,
    );
    for (seed, at_ns, violation) in &sum.failed {
        text += &format!(
            "  seed {seed} at {} s: {}: {}\n",
            Seconds(*at_ns),
            violation.rule,
            violation.seen
        );
    }
    text
}

fn one(arguments: &Arguments, scenario: &Scenario, seed: u64) -> Result<ExitCode> {
    let (options, keep) = (
        arguments.options(),
        arguments.only.as_ref().map(|only| &only.0[..]),
    );
    let script = run::script(scenario, seed, &options);
    if let Some(unknown) = keep
        .unwrap_or_default()
        .iter()
        .find(|number| **number >= script.acts)
    {
        bail!(
            "--only {unknown}: nothing has that number; seed {seed} has {} acts",
            script.acts
        );
    }
    if let Some(length_ns) = options
        .length_ns
        .filter(|length_ns| *length_ns < script.length_ns)
    {
        let (asked, needed) = (
            length_ns / 1_000_000_000,
            script.length_ns.div_ceil(1_000_000_000),
        );
        bail!("--length {asked}: the story of seed {seed} takes {needed} s");
    }
    let began = std::time::Instant::now();
    let mut outcome = run(scenario, seed, &options, keep, None);
    let took = began.elapsed();
    let broken = outcome.violation.is_some();
    let mut shorter = None;
    if broken && arguments.shrink {
        let rule = outcome
            .violation
            .as_ref()
            .map_or("", |(_, violation)| &violation.rule);
        let found = shrink::shrink(scenario, seed, &options, rule, |left| {
            eprintln!("sim: {left} acts left")
        });
        shorter = Some(found);
    }
    let keep = shorter.as_deref().or(keep);
    if broken || arguments.trace.is_some() || arguments.verbose {
        // Once more, with the trace on: it costs time, and changes nothing else.
        outcome = run(scenario, seed, &options, keep, Some(ClassMask::ALL));
    }
    if arguments.json {
        writeln!(
            std::io::stdout(),
            "{}",
            as_json(scenario.name, seed, &outcome, took)
        )?;
    } else {
        tell(arguments, scenario, seed, &outcome, keep, took)?;
    }
    let prefix = match (&arguments.trace, broken) {
        (Some(prefix), _) => Some(prefix.clone()),
        (None, true) => Some(PathBuf::from(format!("out/sim/{}-{seed}", scenario.name))),
        (None, false) => None,
    };
    if let Some(prefix) = prefix {
        let host = format!("{} {seed}", scenario.name);
        for path in report::write_trace(&outcome, &host, &prefix)? {
            eprintln!("sim: wrote {}", path.display());
        }
    }
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn tell(
    arguments: &Arguments,
    scenario: &Scenario,
    seed: u64,
    outcome: &Outcome,
    keep: Option<&[usize]>,
    took: std::time::Duration,
) -> Result<()> {
    let out = &mut std::io::stdout().lock();
    let broken = outcome.violation.is_some();
    if broken || arguments.verbose {
        report::story(outcome, out)?;
    }
    report::verdict(scenario.name, seed, outcome, out)?;
    if broken {
        writeln!(out, "  again     {}", arguments.again(seed, keep))?;
        writeln!(out, "  script")?;
        for (number, (at_ns, act)) in &outcome.acts {
            writeln!(
                out,
                "    {number:>3}  [{:>14}] {act}",
                Seconds(*at_ns).to_string()
            )?;
        }
        let names: Vec<String> = (0..outcome.screens.len()).map(node_name).collect();
        report::last_events(outcome, &names, out)?;
        return Ok(());
    }
    let tally = &outcome.tally;
    let seconds = took.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "seed {seed} of {}: every promise kept; {} s, {} steps, {} frames, {} faults in {:.1} ms ({:.2} million steps/s, {:.0} virtual s/s)",
        scenario.name,
        Seconds(tally.virtual_ns),
        tally.steps,
        tally.frames,
        tally.faults,
        seconds * 1e3,
        tally.steps as f64 / seconds / 1e6,
        tally.virtual_ns as f64 / 1e9 / seconds,
    )?;
    for summary in &outcome.summaries {
        writeln!(out, "  {summary}")?;
    }
    Ok(())
}

fn as_json(
    scenario: &str,
    seed: u64,
    outcome: &Outcome,
    took: std::time::Duration,
) -> serde_json::Value {
    let broken = outcome.violation.as_ref().map(|(at_ns, violation)| {
        json!({ "at_ns": at_ns, "promise": violation.rule, "seen": violation.seen })
    });
    let acts = outcome.acts.iter().map(|(number, (at_ns, act))| {
        json!({ "number": number, "at_ns": at_ns, "act": act.to_string() })
    });
    let acts: Vec<_> = acts.collect();
    let tally = &outcome.tally;
    json!({
        "scenario": scenario, "seed": seed, "broken": broken, "script": acts, "steps": tally.steps,
        "virtual_ns": tally.virtual_ns, "frames": tally.frames, "faults": tally.faults, "seconds": took.as_secs_f64(),
    })
}
