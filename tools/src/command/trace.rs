//! `trace`: record what every CPU's executor does, and write it for people to look at.
//!
//! Without `--input` this boots a node with a trace output, switches the trace on at its
//! console, has it run its workload, and reads the stream from its file while it comes. With
//! `--input` it converts a stream that was recorded before, such as one of `boot --trace FILE`.
//!
//! Decision: the node is driven over its console, as a person would do it, and not by words of the
//! kernel command line: the commands answer, so that we know when the workload is over and when the
//! stream has ended, and an error message is one the user can reproduce by hand.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use executor::trace::record::ClassMask;

use crate::host::{self, Accelerator};
use crate::node::{NodeKind, NodeSpec};
use crate::running::RunningNode;
use crate::trace::model::Trace;
use crate::trace::stream::Decoder;
use crate::trace::text::{self, Style};
use crate::trace::{build, html, json, perfetto};

/// The hostname of the traced node; its prompt is waited for.
const NODE: &str = "anax";
/// How long a node may take to its prompt, and to answer a command.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the stream may go on after it was switched off: rings of 64 CPUs, over a UART.
const DRAIN: Duration = Duration::from_secs(60);

/// Record every CPU's executor: trace.pftrace (Perfetto) and trace.html.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long the workload runs
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
    /// Convert this recorded stream instead of booting a node
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the Perfetto trace goes; open it in ui.perfetto.dev
    #[arg(long, default_value = "trace.pftrace", value_name = "FILE")]
    out: PathBuf,
    /// Where the page goes; open it in any browser
    #[arg(long, default_value = "trace.html", value_name = "FILE")]
    html: PathBuf,
    /// What to record: all, or names joined by commas, as in all,-memory
    #[arg(long, default_value = "all", value_parser = classes, value_name = "CLASSES")]
    classes: ClassMask,
    /// What the node runs on: vm or vkernel, or one of QEMU's machines: q35, pc or microvm
    #[arg(long, default_value = "vm")]
    machine: NodeKind,
    /// How many CPUs
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Keep the stream itself in this file
    #[arg(long, value_name = "FILE")]
    keep_stream: Option<PathBuf>,
    /// Print every record too, before the summary
    #[arg(long)]
    dump: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

fn classes(words: &str) -> Result<ClassMask, String> {
    ClassMask::parse(words).ok_or_else(|| {
        "classes are all, sched, wake, ipi, port, token, irq, timer, memory, user".to_owned()
    })
}

/// Does it. Status 0 when there is a trace, even one with losses: those are shown.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if !(0.05..=600.0).contains(&arguments.seconds) {
        bail!("--seconds is from 0.05 to 600");
    }
    let decoder = match &arguments.input {
        Some(path) => {
            let mut decoder = Decoder::new();
            let bytes =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            decoder.feed(&bytes);
            decoder
        }
        None => record(&arguments)?,
    };
    let trace = build::build(decoder.finish());
    if trace.record_count() == 0 {
        bail!("the stream holds no records ({} bytes)", trace.health.bytes);
    }
    write_file(&arguments.out, |out| perfetto::write(&trace, out))?;
    write_file(&arguments.html, |out| html::write(&trace, out))?;
    report(&arguments, &trace).or_else(ignore_closed_pipe)?;
    Ok(ExitCode::SUCCESS)
}

fn report(arguments: &Arguments, trace: &Trace) -> std::io::Result<()> {
    let style = Style::for_stdout();
    let mut out = BufWriter::new(std::io::stdout().lock());
    if arguments.dump {
        text::write_dump(trace, style, &mut out)?;
        writeln!(out)?;
    }
    if arguments.json {
        writeln!(out, "{}", json::summary(trace))?;
        return out.flush();
    }
    text::write_summary(trace, style, &mut out)?;
    writeln!(
        out,
        "\n{}: open it in a browser\n{}: open it in https://ui.perfetto.dev",
        arguments.html.display(),
        arguments.out.display()
    )?;
    out.flush()
}

/// `trace --dump | head` is no failure.
fn ignore_closed_pipe(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(error)
    }
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(failed)?);
    write(&mut file)
        .and_then(|()| file.flush())
        .with_context(failed)
}

/// Boots a node, has it work, and reads its stream to the end.
fn record(arguments: &Arguments) -> Result<Decoder> {
    host::catch_interrupt()?;
    let directory = tempfile::tempdir()?;
    let path = arguments.keep_stream.clone();
    let path = path.unwrap_or_else(|| directory.path().join("stream"));
    File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let spec = NodeSpec {
        cpus: arguments.cpus,
        trace: Some(path.clone()),
        ..NodeSpec::new(NODE, arguments.machine, arguments.machine.build()?)
    };
    let how = match arguments.machine {
        NodeKind::Vm(machine) => format!("{machine} ({})", Accelerator::choose().argument()),
        NodeKind::Vkernel => "a vkernel".to_owned(),
    };
    eprintln!(
        "anax: {} CPUs on {how}, recording {} s of work",
        arguments.cpus, arguments.seconds
    );
    let mut node = spec.start(None)?;
    node.wait_for_prompt(PATIENCE)?;
    let mut tail = Tail {
        file: File::open(&path)?,
        decoder: Decoder::new(),
    };
    // First the classes, then the stream: a thread is announced by a record.
    node.command(&format!("trace on {}", arguments.classes), PATIENCE)?;
    node.command("trace stream on", PATIENCE)?;
    let limit = Duration::from_secs_f64(arguments.seconds) + PATIENCE;
    let said = node.command(&format!("workload {}", arguments.seconds), limit)?;
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        eprintln!("anax: {line}");
    }
    node.command("trace stream off", PATIENCE)?;
    tail.read_to_end(&mut node)?;
    // The node is of no further use; its way out is tested elsewhere.
    node.kill();
    Ok(tail.decoder)
}

/// Follows a file that the node appends to.
struct Tail {
    file: File,
    decoder: Decoder,
}

impl Tail {
    /// Reads until the END frame. A stream that stops without one is still worth showing: the
    /// outputs say that it was cut off.
    fn read_to_end(&mut self, node: &mut RunningNode) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut quiet_since = Instant::now();
        let started = Instant::now();
        while !self.decoder.ended() {
            host::check_interrupt()?;
            match self.file.read(&mut buffer)? {
                0 if !node.is_running() => break,
                0 if quiet_since.elapsed() > Duration::from_secs(5) => break,
                0 => thread::sleep(Duration::from_millis(5)),
                count => {
                    self.decoder.feed(&buffer[..count]);
                    quiet_since = Instant::now();
                }
            }
            if started.elapsed() > DRAIN {
                break;
            }
        }
        Ok(())
    }
}
