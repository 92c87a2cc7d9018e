//! `test`: everything there is, in the order in which it fails fastest, and one line that counts.
//!
//! Checks, tests of the crates on the host, the models of the lock-free parts, then whole systems.
//! A test that cannot run here says `SKIPPED: why` and passes; the test runner would hide that, so
//! we ask it for the output of passing tests, show it to nobody, and count those lines.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::host;
use crate::kernel;
use crate::node::NodeKind;

mod sanitizers;

/// The parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// rustfmt
    Format,
    /// clippy, on the host's crates and on the kernel
    Lint,
    /// The kernel builds for hardware
    Kernel,
    /// Tests of the crates, on the host; the slab's also as it ships
    Host,
    /// Models of the lock-free parts: all schedules of small ones (loom), many of large ones (shuttle)
    Models,
    /// Tests where threads meet, under ThreadSanitizer
    Tsan,
    /// The same under AddressSanitizer
    Asan,
    /// A thousand seeds of each of the simulator's scenarios
    Seeds,
    /// Whole systems: under QEMU, and as processes
    System,
}

impl Part {
    /// It consists of tests with names, which a filter chooses from.
    fn has_names(self) -> bool {
        !matches!(self, Self::Format | Self::Lint | Self::Kernel | Self::Seeds)
    }
}

/// Run every test there is; the last line counts them.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these parts
    #[arg(long = "only", value_name = "PART")]
    parts: Vec<Part>,
    /// Only tests whose names contain this, or the part of this name
    filter: Option<String>,
    /// Show the names of passing tests too
    #[arg(short, long)]
    verbose: bool,
}

/// The slab's tests once more, and with them those inside the executor, compiled as a kernel is: what a debug build checks of
/// each object is left out there, so objects are smaller and lie elsewhere.
const AS_SHIPPED: [&str; 10] = [
    "test",
    "--quiet",
    "--locked",
    "--profile",
    "kernel",
    "-p",
    "executor",
    "--lib",
    "--test",
    "slab",
];

/// Seeds of each scenario, from 1 on.
const SEEDS: &str = "1000";

/// What a part came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    const PASSED: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    const FAILED: Tally = Tally {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    const SKIPPED: Tally = Tally {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Does it. Status 0 only if nothing failed.
pub fn run(mut arguments: Arguments) -> Result<ExitCode> {
    if let Some(part) = arguments
        .filter
        .as_deref()
        .and_then(|word| Part::from_str(word, false).ok())
        && arguments.parts.is_empty()
    {
        arguments.parts = vec![part];
        arguments.filter = None;
    }
    let parts: Vec<Part> = match (&arguments.parts[..], &arguments.filter) {
        ([], None) => Part::value_variants().to_vec(),
        ([], Some(_)) => Part::value_variants()
            .iter()
            .copied()
            .filter(|part| part.has_names())
            .collect(),
        (some, _) => some.to_vec(),
    };
    let start = Instant::now();
    let mut total = Tally::default();
    for part in &parts {
        let began = Instant::now();
        let tally = run_part(*part, &arguments)?;
        let name = format!("{part:?}").to_lowercase();
        let Tally {
            passed,
            failed,
            skipped,
        } = tally;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{name:<8}{passed:>5} passed {failed:>3} failed {skipped:>3} skipped {seconds:>7.1} s"
        );
        total.add(tally);
    }
    let Tally {
        passed,
        failed,
        skipped,
    } = total;
    println!("in {:.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if let Some(filter) = &arguments.filter
        && total == Tally::default()
    {
        bail!("no test's name contains `{filter}`");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_part(part: Part, arguments: &Arguments) -> Result<Tally> {
    match part {
        Part::Format => check(cargo(&["fmt", "--all", "--check"])),
        Part::Lint => {
            let host = [
                "clippy",
                "--quiet",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ];
            let mut tally = check(cargo(&host))?;
            tally.add(lint_kernel()?);
            Ok(tally)
        }
        Part::Kernel => match kernel::build() {
            Ok(_) => Ok(Tally::PASSED),
            Err(error) => {
                println!("{error:#}");
                Ok(Tally::FAILED)
            }
        },
        Part::Host => {
            let every = [
                "test",
                "--quiet",
                "--locked",
                "--workspace",
                "--exclude",
                "tests",
            ];
            let mut tally = tests(cargo(&every), &[], arguments)?;
            tally.add(tests(cargo(&AS_SHIPPED), &[], arguments)?);
            Ok(tally)
        }
        Part::Models => {
            let mut tally = Tally::default();
            for checker in ["loom", "shuttle"] {
                let mut command = cargo(&["test", "--quiet", "--locked", "--release"]);
                command.args(["-p", "executor", "--test", checker]);
                command.env("RUSTFLAGS", format!("--cfg {checker}"));
                // Other flags, other artefacts: kept apart so that neither build throws out the other.
                let target = host::target_directory().join(checker);
                command.env("CARGO_TARGET_DIR", target);
                tally.add(tests(command, &[], arguments)?);
            }
            Ok(tally)
        }
        Part::Tsan => sanitizers::THREAD.run(arguments),
        Part::Asan => sanitizers::ADDRESS.run(arguments),
        Part::Seeds => seeds(),
        Part::System => {
            let mut command = cargo(&["test", "--quiet", "--locked", "-p", "tests"]);
            for kind in [NodeKind::VM, NodeKind::Vkernel] {
                match kind.build() {
                    Ok(kernel) => command.env(kind.kernel_variable(), kernel),
                    Err(error) => {
                        println!("no kernel, no system tests: {error:#}");
                        return Ok(Tally::FAILED);
                    }
                };
            }
            tests(command, &[], arguments)
        }
    }
}

/// Each scenario is one test. A seed that fails is shown as `./run.sh sim` shows it.
fn seeds() -> Result<Tally> {
    let sim = kernel::build_sim()?;
    let list = Command::new(&sim).args(["--scenario", "list"]).output()?;
    let mut tally = Tally::default();
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let scenario = line.split_whitespace().next().unwrap_or_default();
        let run = Command::new(&sim)
            .args(["--scenario", scenario, "--seeds", SEEDS])
            .output()?;
        if run.status.success() {
            tally.add(Tally::PASSED);
        } else {
            println!("{}", String::from_utf8_lossy(&run.stdout));
            tally.add(Tally::FAILED);
        }
    }
    Ok(tally)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("ANAX_CARGO").unwrap_or("cargo".into()));
    command
        .args(arguments)
        .current_dir(host::checkout())
        .stdin(Stdio::null());
    command
}

/// The kernel's own code is compiled for its target alone, so it is linted there.
fn lint_kernel() -> Result<Tally> {
    // rustup's linter beside Debian's compiler: the one cannot read what the other made.
    if env::var_os("ANAX_KERNEL_CARGO") != env::var_os("ANAX_CARGO") {
        println!(
            "SKIPPED: clippy on the kernel; fix it with: rustup target add {}",
            kernel::TARGET
        );
        return Ok(Tally::SKIPPED);
    }
    let mut command = kernel::cargo("clippy");
    command.args(["--lib", "--bins", "--", "-D", "warnings"]);
    check(command)
}

/// A check is one test: its exit status.
fn check(mut command: Command) -> Result<Tally> {
    let word = command
        .get_args()
        .next()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let there = cargo(&[&word, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !there.is_ok_and(|status| status.success()) {
        println!("SKIPPED: there is no cargo {word} here");
        return Ok(Tally::SKIPPED);
    }
    let status = command
        .status()
        .context("cannot run cargo; start this by ./run.sh")?;
    Ok(if status.success() {
        Tally::PASSED
    } else {
        Tally::FAILED
    })
}

/// Runs test programs, with these arguments of their own, shows what matters of their output, and counts.
fn tests(mut command: Command, harness: &[&str], arguments: &Arguments) -> Result<Tally> {
    command.args(["--no-fail-fast", "--"]);
    command.args(&arguments.filter).args(harness);
    command.args(["--show-output", "--format", "pretty"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo; start this by ./run.sh")?;
    let mut reader = Reader::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            match reader.read(&line) {
                Some(shown) => println!("{shown}"),
                None if arguments.verbose => println!("{line}"),
                None => {}
            }
        }
    }
    let status = child.wait()?;
    let mut tally = reader.tally();
    // It did not build, or a test program died before it could count.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Understands the output of Rust's test runner.
#[derive(Default)]
struct Reader {
    tally: Tally,
    /// Tests that passed by saying that they cannot run.
    said_skipped: u32,
    in_successes: bool,
    test: String,
}

impl Reader {
    /// The count so far.
    fn tally(&self) -> Tally {
        let Tally {
            passed,
            failed,
            skipped,
        } = self.tally;
        let said = self.said_skipped;
        Tally {
            passed: passed.saturating_sub(said),
            failed,
            skipped: skipped + said,
        }
    }

    /// Takes a line; what of it a person wants to see.
    fn read(&mut self, line: &str) -> Option<String> {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(test) = line
            .strip_prefix("---- ")
            .and_then(|l| l.strip_suffix(" stdout ----"))
        {
            self.test = test.to_owned();
        }
        if let Some(why) = line.trim_start().strip_prefix("SKIPPED: ")
            && self.in_successes
        {
            self.said_skipped += 1;
            return Some(format!("SKIPPED: {}: {why}", self.test));
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            let count = |word: &str| -> u32 {
                let mut words = counts
                    .split([' ', ';', '.'])
                    .filter(|word| !word.is_empty());
                let mut last = "";
                words
                    .find_map(|current| {
                        let found = (current == word).then(|| last.parse().unwrap_or(0));
                        last = current;
                        found
                    })
                    .unwrap_or(0)
            };
            self.tally.add(Tally {
                passed: count("passed"),
                failed: count("failed"),
                skipped: count("ignored"),
            });
            return (count("failed") > 0).then(|| line.to_owned());
        }
        let noise = line.is_empty()
            || line.starts_with("running ")
            || (line.starts_with("test ") && !line.ends_with("FAILED"));
        (!self.in_successes && !noise).then(|| line.to_owned())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test one ... ok
test two ... ok
test three ... FAILED
test four ... ignored

successes:

---- two stdout ----
SKIPPED: no root
chatter

failures:

---- three stdout ----
it broke

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    #[test]
    fn results_are_counted_and_only_failures_are_shown() {
        let mut reader = Reader::default();
        let shown: Vec<String> = OUTPUT
            .lines()
            .filter_map(|line| reader.read(line))
            .collect();
        assert_eq!(
            reader.tally(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 2
            }
        );
        let text = shown.join("\n");
        assert!(
            text.contains("test three ... FAILED") && text.contains("it broke"),
            "{text}"
        );
        assert!(text.contains("SKIPPED: two: no root"), "{text}");
        assert!(
            !text.contains("chatter") && !text.contains("test one"),
            "{text}"
        );
    }
}
