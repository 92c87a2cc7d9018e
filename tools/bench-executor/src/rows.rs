//! The rows: what is measured, who takes part, and what is good enough.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tools::bench::report::{Row, median_and_spread};

use crate::{allocations, bare, glommio_peer, ours, tokio_peer};

/// Turns of the first, throw-away sample, which says how many fill a real one.
const TRIAL_TURNS: u64 = 500;

/// A sample takes milliseconds; one that takes this long never ends.
const TOO_LONG: Duration = Duration::from_secs(10);

/// What one subject's sample says.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Nanoseconds a turn.
    pub ns: f64,
    /// Allocations a turn, by the thread that took the time.
    pub allocations: f64,
}

/// A sample being taken by this thread.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Duration,
    clock: fn() -> Duration,
    allocations: u64,
}

impl Stopwatch {
    /// For what one thread does: counts its processor time, which other programs do not lengthen.
    pub fn one_thread() -> Stopwatch {
        Stopwatch::start(bare::processor_time)
    }

    /// For what several threads do: counts the time that passes.
    pub fn wall() -> Stopwatch {
        Stopwatch::start(bare::wall_time)
    }

    fn start(clock: fn() -> Duration) -> Stopwatch {
        Stopwatch {
            started: clock(),
            clock,
            allocations: allocations::count(),
        }
    }

    /// The sample of the `turns` turns since the start.
    pub fn stop(self, turns: u64) -> Sample {
        let elapsed = (self.clock)() - self.started;
        let allocations = allocations::count() - self.allocations;
        Sample {
            ns: elapsed.as_nanos() as f64 / turns as f64,
            allocations: allocations as f64 / turns as f64,
        }
    }
}

/// Runs so many turns on fresh threads and says how long they took.
type Measure = fn(u64) -> Result<Sample>;

/// How far above the floor is still good.
enum Goal {
    /// At most half of the better peer.
    HalfOfPeer,
    /// At most half of the better peer, at most so many nanoseconds, and no allocation.
    HalfOfPeerAndFree(f64),
    /// At most so many times the floor.
    TimesFloor(f64),
}

/// One row and its subjects. The first subject is ours.
pub struct Case {
    /// What is measured.
    pub row: &'static str,
    /// Cores it needs for a meaningful answer.
    cores: usize,
    ours: Measure,
    peers: &'static [(&'static str, Measure)],
    floor: Option<(&'static str, Measure)>,
    goal: Goal,
}

/// All rows.
pub const CASES: [Case; 4] = [
    Case {
        row: "same-CPU yield, 10 threads",
        cores: 1,
        ours: ours::yields,
        peers: &[
            ("tokio", tokio_peer::yields),
            ("glommio", glommio_peer::yields),
        ],
        floor: None,
        goal: Goal::HalfOfPeer,
    },
    Case {
        row: "inline port call",
        cores: 1,
        ours: ours::inline_calls,
        peers: &[
            ("tokio", tokio_peer::local_calls),
            ("glommio", glommio_peer::local_calls),
        ],
        floor: None,
        goal: Goal::HalfOfPeerAndFree(3.0),
    },
    Case {
        row: "cross-CPU request and reply, both awake",
        cores: 2,
        ours: ours::calls_between_awake,
        peers: &[
            ("tokio", tokio_peer::calls_between_awake),
            ("glommio", glommio_peer::calls_between_awake),
        ],
        floor: Some(("cache line there and back", bare::cache_line)),
        goal: Goal::HalfOfPeer,
    },
    Case {
        row: "cross-CPU request and reply, both asleep",
        cores: 2,
        ours: ours::calls_between_asleep,
        peers: &[
            ("tokio", tokio_peer::calls_between_asleep),
            ("glommio", glommio_peer::calls_between_asleep),
        ],
        floor: Some(("futex there and back", bare::futex)),
        goal: Goal::TimesFloor(1.2),
    },
];

struct Subject {
    name: &'static str,
    measure: Measure,
    turns: u64,
    samples: Vec<f64>,
    allocations: f64,
}

impl Subject {
    fn median(&self) -> f64 {
        median_and_spread(&self.samples).0
    }

    fn row(&self, name: &str) -> Row {
        Row::new("executor", name, "ns", &self.samples)
    }
}

impl Case {
    /// The row itself, judged, and one more for each thing it stands beside. With `only` given,
    /// that subject's row alone.
    pub fn measure(&self, rounds: u32, sample_ns: f64, only: Option<&str>) -> Vec<Row> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if cores < self.cores {
            eprintln!("no row for {}: it needs {} cores", self.row, self.cores);
            return Vec::new();
        }
        let mut subjects = self.subjects(sample_ns, only);
        for _ in 0..rounds {
            subjects.retain_mut(|subject| match take(subject.measure, subject.turns) {
                Ok(sample) => {
                    subject.samples.push(sample.ns);
                    subject.allocations = subject.allocations.max(sample.allocations);
                    true
                }
                Err(error) => {
                    eprintln!("{}: {} dropped out: {error:#}", self.row, subject.name);
                    false
                }
            });
        }
        if only.is_some() {
            return subjects.iter().map(|s| s.row(&indented(s.name))).collect();
        }
        self.judge(&subjects)
    }

    /// Those that can run here, each with the number of turns that fills a sample.
    fn subjects(&self, sample_ns: f64, only: Option<&str>) -> Vec<Subject> {
        [("ours", self.ours)]
            .iter()
            .chain(self.peers)
            .chain(&self.floor)
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .filter_map(|&(name, measure)| match take(measure, TRIAL_TURNS) {
                Ok(trial) => Some(Subject {
                    name,
                    measure,
                    turns: ((sample_ns / trial.ns) as u64).clamp(50, 20_000_000),
                    samples: Vec::new(),
                    allocations: 0.0,
                }),
                Err(error) => {
                    eprintln!("{}: {name} is missing: {error:#}", self.row);
                    None
                }
            })
            .collect()
    }

    fn judge(&self, subjects: &[Subject]) -> Vec<Row> {
        let find = |name: &str| subjects.iter().find(|subject| subject.name == name);
        let Some(ours) = find("ours") else {
            // Nothing measured is not good, and the row says so.
            return vec![Row::new("executor", self.row, "ns", &[])];
        };
        let floor = self.floor.and_then(|(name, _)| find(name));
        let peer = self
            .peers
            .iter()
            .filter_map(|(name, _)| find(name))
            .min_by(|a, b| a.median().total_cmp(&b.median()));
        let mut row = ours.row(self.row);
        if let Some(peer) = peer {
            let missing = self.peers.iter().filter(|(name, _)| find(name).is_none());
            let missing: String = missing
                .map(|(name, _)| format!(", no {name} here"))
                .collect();
            row = row.beside(&format!("{}{missing}", peer.name), peer.median());
        }
        let half = peer.map_or(f64::NAN, |peer| 0.5 * peer.median());
        row = row.at_most(match self.goal {
            Goal::HalfOfPeer => half,
            Goal::HalfOfPeerAndFree(most_ns) => half.min(most_ns),
            Goal::TimesFloor(factor) => floor.map_or(f64::NAN, |floor| factor * floor.median()),
        });
        let mut rows = vec![row];
        if let Goal::HalfOfPeerAndFree(_) = self.goal {
            let name = format!("{}: allocations", self.row);
            rows.push(Row::new("executor", &name, "", &[ours.allocations]).at_most(0.0));
        }
        let others = subjects.iter().filter(|subject| subject.name != "ours");
        rows.extend(others.map(|subject| subject.row(&indented(subject.name))));
        rows
    }
}

/// The name of a row that belongs to the one above.
fn indented(subject: &str) -> String {
    format!("  {subject}")
}

/// Takes one sample on a thread of its own. A subject that hangs is left behind, not waited for.
fn take(measure: Measure, turns: u64) -> Result<Sample> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more when it came too late.
        let _ = send.send(measure(turns));
    });
    receive
        .recv_timeout(TOO_LONG)
        .map_err(|_| anyhow!("no answer in {} s", TOO_LONG.as_secs()))?
}
