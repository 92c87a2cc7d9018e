//! The parts `tsan` and `asan`: the tests where threads meet, and where memory is handed on, under LLVM's sanitizers.
//!
//! The standard library is built anew with them (`-Zbuild-std`): a `Mutex` or an `unpark` that ThreadSanitizer cannot see
//! orders nothing, and it would report races that are none. Which compiler can do that, and where the sanitizers' runtime
//! is, scripts/setup.sh has found out; `RUSTC_BOOTSTRAP` allows the flags on a stable one.
//!
//! Reports go to files, because a process that a test started (a vkernel) must not be able to hide its own; each counts as
//! a failed test. A sanitizer that is silent may be blind, so each part runs `executor/tests/planted.rs` once more
//! with each of the defects that it must find. There are no suppressions but those of [`Sanitizer::suppressions`],
//! each with its reason.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, io};

use anyhow::{Context, Result};

use super::{Arguments, Tally, tests};
use crate::host;

/// The one that is built and tested for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// One sanitizer.
pub(super) struct Sanitizer {
    /// The part's name, and the folder's of what is built for it.
    part: &'static str,
    /// The compiler's name for it, also in the runtime's file name.
    flag: &'static str,
    runtime: &'static str,
    options_variable: &'static str,
    /// Names in reports, by which suppressions work, come from binutils where LLVM's own program for that is missing.
    options: &'static str,
    suites: &'static [Suite],
    suppressions: &'static [Suppression],
    /// What executor/tests/planted.rs can plant, and what the report of it says.
    plants: &'static [(&'static str, &'static str)],
}

/// Tests that are run with the same options.
struct Suite {
    cargo: &'static [&'static str],
    options: &'static str,
    /// Tests that cannot hold under this sanitizer, and why.
    skip: &'static [(&'static str, &'static str)],
}

/// A pattern of LeakSanitizer's, and why it may be there.
struct Suppression {
    pattern: &'static str,
    #[expect(dead_code, reason = "for who reads this file")]
    why: &'static str,
}

const HELD_SIGNALS: &str = "ThreadSanitizer holds a signal back until its thread calls the host, so a busy CPU does not stop";
const NO_LIMIT: &str = "AddressSanitizer's allocator stands in for the arenas, which have limits";

/// Data races. Fences are not understood (`trace/ring.rs` has the one pair of ours; what they order is atomic there).
pub(super) const THREAD: Sanitizer = Sanitizer {
    part: "tsan",
    flag: "-Zsanitizer=thread",
    runtime: "tsan",
    options_variable: "TSAN_OPTIONS",
    options: "second_deadlock_stack=1:allocator_may_return_null=1:allow_addr2line=1",
    suites: &[
        Suite {
            cargo: &["-p", "executor", "--lib", "--tests"],
            options: "",
            skip: &[],
        },
        Suite {
            cargo: &[
                "-p",
                "net",
                "-p",
                "carp",
                "-p",
                "kernel",
                "--features",
                "kernel/process",
                "--lib",
                "--test",
                "tasks",
                "--test",
                "network",
                "--test",
                "vkernel",
            ],
            options: "",
            skip: &[
                (
                    "a_panic_while_sixty_four_cpus_start_stops_them_all",
                    HELD_SIGNALS,
                ),
                ("a_panic_says_where_and_what_and_ends_as_told", HELD_SIGNALS),
                ("the_debugger_names_what_a_busy_cpu_runs", HELD_SIGNALS),
                (
                    "the_quit_character_shows_every_cpu_and_continue_goes_on",
                    HELD_SIGNALS,
                ),
            ],
        },
    ],
    suppressions: &[],
    plants: &[("race", "data race")],
};

/// Memory that is used after it was freed or beyond its end, and in the executor's own tests memory that nobody frees.
/// The system's allocator stands in for the kernels' arenas (`--cfg asan` in `kernel/src/platform/arena.rs`): freed memory
/// is then kept out of use for long, which finds more than slabs poisoned by hand, whose objects are used again at once.
pub(super) const ADDRESS: Sanitizer = Sanitizer {
    part: "asan",
    flag: "-Zsanitizer=address",
    runtime: "asan",
    options_variable: "ASAN_OPTIONS",
    options: "allocator_may_return_null=1:allow_addr2line=1",
    suites: &[
        Suite {
            cargo: &["-p", "executor", "--lib", "--tests"],
            options: "detect_leaks=1",
            skip: &[],
        },
        Suite {
            cargo: &[
                "-p",
                "net",
                "-p",
                "carp",
                "-p",
                "kernel",
                "-p",
                "sim",
                "--features",
                "kernel/process",
                "--lib",
                "--test",
                "tasks",
                "--test",
                "network",
                "--test",
                "vkernel",
                "--test",
                "kept_seeds",
            ],
            // A whole kernel lives as long as its process: its devices and its network hold each other.
            options: "detect_leaks=0",
            skip: &[
                ("memory_that_is_used_up_ends_in_a_report", NO_LIMIT),
                (
                    "a_frame_that_finds_no_memory_is_counted_and_the_next_one_is_taken",
                    NO_LIMIT,
                ),
                ("platform::arena::tests", NO_LIMIT),
                ("short_of_memory::", NO_LIMIT),
                ("a_line_that_finds_no_memory_is_refused", NO_LIMIT),
                (
                    "a_request_for_memory_that_fails_costs_a_counted_frame",
                    NO_LIMIT,
                ),
                ("those_that_find_no_memory_are_counted", NO_LIMIT),
            ],
        },
    ],
    suppressions: &[
        Suppression {
            pattern: "executor::slab::",
            why: "a zone map's bitmap is &'static, as a kernel's is; the tests of slabs leak one each",
        },
        Suppression {
            pattern: "of_a_node_that_never_ran_it",
            why: "a future that need not be Send is dropped by nobody when its CPU never runs: it stays",
        },
        Suppression {
            pattern: "_panics",
            why: "a hosted CPU that ends in a panic leaves its threads as they are; tests of it say so in their names",
        },
    ],
    plants: &[
        ("use after free", "heap-use-after-free"),
        ("leak", "LeakSanitizer: detected memory leaks"),
    ],
};

impl Sanitizer {
    /// Runs the part.
    pub(super) fn run(&self, arguments: &Arguments) -> Result<Tally> {
        if env::var_os("ANAX_SANITIZER_CARGO").is_none_or(|cargo| cargo.is_empty()) {
            println!(
                "SKIPPED: {}: no compiler here builds its library with sanitizers; fix it with: rustup component add rust-src (or, for Debian's rustc-web: apt-get install rust-web-src libclang-rt-19-dev)",
                self.part
            );
            return Ok(Tally::SKIPPED);
        }
        fs::create_dir_all(self.folder())?;
        let suppressions: String = self
            .suppressions
            .iter()
            .map(|one| format!("leak:{}\n", one.pattern))
            .collect();
        fs::write(self.folder().join("suppressions"), suppressions)?;
        let mut tally = Tally::default();
        for suite in self.suites {
            self.take_reports()?;
            let mut harness = Vec::new();
            for (test, why) in suite.skip {
                println!("SKIPPED: {test}: {why}");
                tally.add(Tally::SKIPPED);
                harness.extend(["--skip", test]);
            }
            tally.add(tests(
                self.cargo(suite.cargo, suite.options),
                &harness,
                arguments,
            )?);
            for report in self.take_reports()? {
                println!("{report}");
                tally.add(Tally::FAILED);
            }
        }
        for (plant, found) in self.plants {
            tally.add(self.find(plant, found)?);
        }
        Ok(tally)
    }

    /// Runs the tests with a defect planted, which must be reported.
    fn find(&self, plant: &str, found: &str) -> Result<Tally> {
        let suite = &self.suites[0];
        let mut command = self.cargo(&["-p", "executor", "--test", "planted"], suite.options);
        command
            .env("ANAX_PLANT", plant)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command
            .status()
            .context("cannot run cargo; start this by ./run.sh")?;
        let reports = self.take_reports()?;
        if !status.success()
            && reports
                .iter()
                .any(|report| report.contains(found) && report.contains("planted"))
        {
            return Ok(Tally::PASSED);
        }
        println!("{}: the planted {plant} was not found", self.part);
        Ok(Tally::FAILED)
    }

    /// What the processes since the last call have reported.
    fn take_reports(&self) -> io::Result<Vec<String>> {
        let mut reports = Vec::new();
        for file in fs::read_dir(self.folder())? {
            let path = file?.path();
            if path.file_stem().is_some_and(|stem| stem == "report") {
                let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                fs::remove_file(path)?;
                // A warning of the allocator's has no summary: a test has asked for more than there is, and got nothing.
                if text.contains("SUMMARY: ") {
                    reports.push(text);
                }
            }
        }
        Ok(reports)
    }

    /// Other flags, other artefacts: kept apart, as the models' are.
    fn folder(&self) -> PathBuf {
        host::target_directory().join(self.part)
    }

    fn cargo(&self, arguments: &[&str], options: &str) -> Command {
        let variable = |name: &str| env::var(name).unwrap_or_default();
        let mut flags = format!("{} --cfg {}", self.flag, self.part);
        let runtime = variable("ANAX_SANITIZER_RUNTIME");
        if runtime != "shipped" {
            // As clang links it: whole, before everything else, with the libraries that it needs.
            let archive = format!("{runtime}/libclang_rt.{}-x86_64.a", self.runtime);
            flags += " -Zexternal-clangrt -Clink-arg=-lm -Clink-arg=-lc";
            flags += &format!(" -Zpre-link-arg=-Wl,--whole-archive,{archive},--no-whole-archive");
        }
        let folder = self.folder();
        let report = folder.join("report");
        let mut command = Command::new(variable("ANAX_SANITIZER_CARGO"));
        command
            .args([
                "test",
                "--quiet",
                "--locked",
                "-Zbuild-std",
                "--target",
                TARGET,
            ])
            .args(arguments)
            .current_dir(host::checkout())
            .stdin(Stdio::null())
            .env("RUSTC", variable("ANAX_SANITIZER_RUSTC"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("CARGO_TARGET_DIR", &folder)
            .env(
                self.options_variable,
                format!("{}:{options}:log_path={}", self.options, report.display()),
            )
            .env(
                "LSAN_OPTIONS",
                format!(
                    "print_suppressions=0:suppressions={}",
                    folder.join("suppressions").display()
                ),
            );
        command
    }
}
