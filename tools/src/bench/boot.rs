//! `bench boot`: from QEMU's start to the prompt, beside a kernel that does nothing and Linux.
//!
//! All take turns within one run, so that a host that slows down slows all of them. The time is
//! wall-clock, from before QEMU is spawned to the moment the prompt has arrived here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::linux;
use super::report::{Row, median_and_spread};
use crate::host;
use crate::kernel;
use crate::qemu::{Guest, Machine};
use crate::running::RunningNode;

const EMPTY_SOURCE: &str = include_str!("empty.s");
const LIMIT: Duration = Duration::from_secs(60);

/// What is booted where.
struct Case {
    machine: Machine,
    cpus: u32,
    /// The most it may take, as a multiple of the empty kernel's time, or in seconds.
    limit: Bound,
}

enum Bound {
    TimesEmpty(f64),
    Seconds(f64),
}

const CASES: [Case; 3] = [
    Case {
        machine: Machine::Q35,
        cpus: 4,
        limit: Bound::TimesEmpty(1.5),
    },
    Case {
        machine: Machine::Q35,
        cpus: 64,
        limit: Bound::TimesEmpty(1.5),
    },
    Case {
        machine: Machine::Microvm,
        cpus: 4,
        limit: Bound::Seconds(0.06),
    },
];

/// Measures `runs` boots of each case; `say` gets the progress.
pub fn run(runs: u32, mut say: impl FnMut(&str)) -> Result<Vec<Row>> {
    let directory = host::socket_directory()?;
    let ours = kernel::build()?;
    let empty = assemble(directory.path())?;
    let mut rows = Vec::new();
    for Case {
        machine,
        cpus,
        limit,
    } in CASES
    {
        let title = format!("{machine}, {cpus} vCPUs");
        say(&title);
        let (mut own, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            own.push(boot("anax", &guest(&ours, machine, cpus))?);
            floor.push(boot("empty", &guest(&empty, machine, cpus))?);
        }
        let (floor, _) = median_and_spread(&floor);
        let limit = match limit {
            Bound::TimesEmpty(factor) => factor * floor,
            Bound::Seconds(seconds) => seconds,
        };
        rows.push(
            Row::new("boot", &title, "s", &own)
                .beside("empty kernel", floor)
                .at_most(limit),
        );
    }
    match linux::fetch() {
        Ok((image, initramfs)) => {
            say("Linux");
            let guest = Guest {
                append: "console=ttyS0 quiet panic=-1".to_owned(),
                extra: vec!["-initrd".to_owned(), initramfs.display().to_string()],
                ..guest(&image, Machine::Q35, 4)
            };
            // A peer that stalls on a busy host (seen: its RCU thread starved) costs its sample, not our rows.
            let mut samples = Vec::new();
            for _ in 0..runs.min(3) {
                match boot("linux", &guest) {
                    Ok(seconds) => samples.push(seconds),
                    Err(error) if error.is::<host::Interrupted>() => return Err(error),
                    Err(_) => say("Linux: a boot did not come to its prompt; left out"),
                }
            }
            if samples.is_empty() {
                return Ok(rows);
            }
            let (linux, _) = median_and_spread(&samples);
            let first = &rows[0];
            let row = Row {
                row: "the same beside Linux and busybox".to_owned(),
                // Judged by its own limit, whatever the first row's says.
                ok: true,
                ..first.clone()
            };
            rows.insert(1, row.beside("Linux", linux).at_most(linux));
        }
        Err(error) => say(&format!("no row for Linux: {error:#}")),
    }
    Ok(rows)
}

fn guest(kernel: &Path, machine: Machine, cpus: u32) -> Guest {
    Guest {
        kernel: Some(kernel.to_owned()),
        machine,
        cpus,
        ..Guest::default()
    }
}

/// Seconds to the prompt of the node `name`.
fn boot(name: &str, guest: &Guest) -> Result<f64> {
    host::check_interrupt()?;
    let vm = RunningNode::start(name, guest.command()?, None)?;
    Ok(vm.wait_for_prompt(LIMIT)?.as_secs_f64())
}

/// Builds the empty kernel with the host's C compiler as assembler and linker.
fn assemble(directory: &Path) -> Result<PathBuf> {
    let source = directory.join("empty.s");
    let kernel = directory.join("empty");
    std::fs::write(&source, EMPTY_SOURCE)?;
    let status = Command::new(host::need_program("cc", "gcc")?)
        .args([
            "-static",
            "-nostdlib",
            "-no-pie",
            "-Wl,-n,-Ttext=0x100000,-e,start,--build-id=none",
        ])
        .arg("-o")
        .arg(&kernel)
        .arg(&source)
        .status()
        .context("cannot run cc")?;
    if !status.success() {
        bail!("cannot build the empty kernel (see above)");
    }
    Ok(kernel)
}
