//! `bench vkernel`: how soon a vkernel is there, what it costs when idle, how soon another one takes its
//! place, and how many packets it answers.
//!
//! Everything is measured from outside, by clocks and counters of the host; peers are measured in turn
//! with the vkernel within one run, so that a host that slows down slows both.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use smoltcp::wire::EthernetAddress;

use super::echo::{self, Load, Station};
use super::report::{Row, median_and_spread};
use crate::carp::outcome::Step;
use crate::carp::screen::Screen;
use crate::carp::stage::{Cast, Stage};
use crate::host;
use crate::lan::Lan;
use crate::node::{NodeKind, NodeSpec, node_mac};
use crate::qemu::Network;
use crate::running::{RunningNode, tied_to_us};

const CPUS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(20);
/// The most that start to prompt may take.
const START_LIMIT_MS: f64 = 30.0;
/// How long an idle node is watched, and the most it may use of a core meanwhile.
const IDLE_TIME: Duration = Duration::from_secs(10);
const IDLE_LIMIT_PERCENT: f64 = 0.2;
/// What the kernel must answer of what the plain program does.
const ECHO_SHARE: f64 = 0.6;
const ECHO_TIME: Duration = Duration::from_millis(300);

/// Measures everything; starts and failovers `runs` times. `say` gets the progress.
///
/// # Errors
/// A node did not do as it was told.
pub fn run(runs: u32, mut say: impl FnMut(&str)) -> Result<Vec<Row>> {
    let kernel = NodeKind::Vkernel.build()?;
    let mut rows = Vec::new();
    say("start to prompt");
    rows.push(start(&kernel, runs)?);
    say("idle");
    rows.extend(idle(&kernel)?);
    say("failover");
    rows.push(failover(runs)?);
    say("UDP echo");
    rows.push(on_one_core(|| udp_echo(&kernel, runs))?);
    Ok(rows)
}

fn spec(kernel: &std::path::Path) -> NodeSpec {
    NodeSpec {
        cpus: CPUS,
        ..NodeSpec::new("anax", NodeKind::Vkernel, kernel.to_owned())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From before the process is made to the prompt's arrival here; the floor is a program that does
/// nothing, from before it is made to its end.
fn start(kernel: &std::path::Path, runs: u32) -> Result<Row> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        host::check_interrupt()?;
        ours.push(milliseconds(
            spec(kernel).start(None)?.wait_for_prompt(LIMIT)?,
        ));
        let began = Instant::now();
        tied_to_us(Command::new("true"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run true")?;
        floor.push(milliseconds(began.elapsed()));
    }
    let (floor, _) = median_and_spread(&floor);
    Ok(Row::new("vkernel", "start to prompt, 4 CPUs", "ms", &ours)
        .beside("Linux's `true`", floor)
        .at_most(START_LIMIT_MS))
}

/// What the host knows of a process's threads, by thread id.
struct Threads(BTreeMap<String, Thread>);

struct Thread {
    name: String,
    used_ns: u64,
    voluntary_switches: u64,
}

impl Threads {
    fn of(process: u32) -> Result<Threads> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let folder = entry?.path();
            let read = |name: &str| {
                let path: PathBuf = folder.join(name);
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
            };
            // The first figure is the time on a CPU; that of `stat` counts only ticks of 10 ms.
            let used_ns = read("schedstat")?
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .context("unreadable schedstat in /proc")?;
            let status = read("status")?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::trim)
            };
            let thread = Thread {
                name: field("Name:").unwrap_or_default().to_owned(),
                used_ns,
                voluntary_switches: field("voluntary_ctxt_switches:")
                    .and_then(|word| word.parse().ok())
                    .context("unreadable status in /proc")?,
            };
            threads.insert(entry_name(&folder), thread);
        }
        Ok(Threads(threads))
    }
}

fn entry_name(path: &std::path::Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn idle(kernel: &std::path::Path) -> Result<[Row; 2]> {
    let node = spec(kernel).start(None)?;
    node.wait_for_prompt(LIMIT)?;
    thread::sleep(Duration::from_millis(500));
    let before = Threads::of(node.process())?;
    let began = Instant::now();
    while began.elapsed() < IDLE_TIME {
        host::check_interrupt()?;
        thread::sleep(Duration::from_millis(100));
    }
    let time = began.elapsed();
    let after = Threads::of(node.process())?;
    let (mut used_ns, mut switches) = (0, 0);
    for (id, now) in &after.0 {
        let then = before.0.get(id);
        used_ns += now.used_ns - then.map_or(0, |then| then.used_ns);
        let voluntary = now.voluntary_switches - then.map_or(0, |then| then.voluntary_switches);
        if voluntary > 0 {
            eprintln!("bench vkernel: thread {} woke {voluntary} times", now.name);
        }
        switches += voluntary;
    }
    let percent = used_ns as f64 / time.as_nanos() as f64 * 100.0;
    Ok([
        Row::new(
            "vkernel",
            "idle for 10 s, 4 CPUs: of a core",
            "%",
            &[percent],
        )
        .at_most(IDLE_LIMIT_PERCENT),
        Row::new(
            "vkernel",
            "idle for 10 s: voluntary switches",
            "times",
            &[switches as f64],
        )
        .at_most(0.0),
    ])
}

/// The demonstration's second and third step, again and again.
fn failover(runs: u32) -> Result<Row> {
    let cast = Cast {
        nodes: [NodeKind::Vkernel; 2],
        cpus: 2,
        fast: true,
        pcap: None,
    };
    let mut stage = Stage::set_up(&cast, Screen::silent())?;
    let mut outages = Vec::new();
    let mut problems = Vec::new();
    problems.extend(stage.step(Step::Start)?.problem);
    for _ in 0..runs {
        let crash = stage.step(Step::Crash)?;
        outages.push(milliseconds(crash.window.outage));
        problems.extend(crash.problem);
        problems.extend(stage.step(Step::Return)?.problem);
    }
    for problem in &problems {
        eprintln!("bench vkernel: failover: {problem}");
    }
    let formula = milliseconds(stage.scenario.master_down(1));
    let mut row = Row::new("vkernel", "failover, SIGKILL, --fast", "ms", &outages)
        .beside("the formula", formula)
        .at_most(milliseconds(stage.scenario.crash_limit));
    row.ok &= problems.is_empty();
    Ok(row)
}

/// Runs `measure` in a thread that, with all threads and processes it starts, has one core. Where threads that wake
/// each other run on several, the rate tells where the host put them and how soon it wakes a core: it differs by a
/// factor of two from one second to the next. On one core it tells what a packet costs.
fn on_one_core<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pinned = || {
        let allowed = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        let last = (0..CpuSet::MAX_CPU)
            .rev()
            .find(|&core| allowed.is_set(core));
        one.set(last.context("this thread may run nowhere")?);
        sched_setaffinity(None, &one)?;
        measure()
    };
    thread::scope(|scope| scope.spawn(pinned).join())
        .map_err(|_| anyhow!("the measurement failed (see above)"))?
}

/// Answers a second, the kernel and the plain program in turn.
fn udp_echo(kernel: &std::path::Path, rounds: u32) -> Result<Row> {
    let directory = host::socket_directory()?;
    let lan = Lan::start(directory.path(), None)?;
    let station = |name: &str, number: u8| -> Result<Station> {
        lan.add_port(name)?;
        Ok(Station {
            stream: UnixStream::connect(lan.socket(name))?,
            mac: EthernetAddress([2, 0, 0, 0, 0, number]),
            address: Ipv4Addr::new(192, 0, 2, number),
        })
    };
    lan.add_port("anax")?;
    let (ours, theirs) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 3));
    let mut load = Load::new(station("load", 2)?)?;
    let plain = station("plain", 3)?;
    let hang_up = plain.stream.try_clone()?;
    let plain = thread::spawn(move || echo::serve(plain));

    let mut node = NodeSpec {
        cpus: 1,
        networks: vec![(Network::Lan(lan.socket("anax")), node_mac(1))],
        ..spec(kernel)
    }
    .start(None)?;
    node.wait_for_prompt(LIMIT)?;
    let interface = NodeKind::Vkernel.first_interface();
    node.command(&format!("ifconfig {interface} {ours}/24 up"), LIMIT)?;
    begin_echo(&mut node)?;

    let mut samples = [Vec::new(), Vec::new()];
    let mut lost = 0;
    for _ in 0..rounds {
        for (target, samples) in [ours, theirs].into_iter().zip(&mut samples) {
            let (rate, missing) = load.measure(target, ECHO_TIME)?;
            samples.push(rate);
            lost += missing;
        }
    }
    hang_up.shutdown(std::net::Shutdown::Both)?;
    plain
        .join()
        .map_err(|_| anyhow!("the plain echo program failed"))??;
    if lost > 0 {
        eprintln!("bench vkernel: UDP echo: {lost} questions were lost");
    }
    let [kernel, plain] = samples;
    let (plain, _) = median_and_spread(&plain);
    Ok(Row::new(
        "vkernel",
        "UDP echo, 64 bytes, 64 on their way, one core",
        "packets/s",
        &kernel,
    )
    .beside("a plain program", plain)
    .at_least(ECHO_SHARE * plain))
}

fn begin_echo(node: &mut RunningNode) -> Result<()> {
    let position = node.console().position();
    node.type_line("udpecho")?;
    node.wait_after(position, "echoing", LIMIT).map(|_| ())
}
