//! Many seeds, on all cores: each run has a thread to itself, and no run knows of another.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::promise::{NO_MEMORY, Violation};
use crate::run::run;
use crate::scenarios::{Options, Scenario};

/// How often the progress line is written anew.
const PULSE: Duration = Duration::from_millis(250);

/// What is to be done.
pub struct Order<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The first seed.
    pub first: u64,
    /// How many, one after the other.
    pub count: u64,
    /// Runs at a time.
    pub jobs: usize,
    /// What the command line says.
    pub options: Options,
    /// Goes on after the first seed that fails.
    pub keep_going: bool,
}

/// What came of it.
#[derive(Default)]
pub struct Sum {
    /// Runs that ended.
    pub runs: u64,
    /// Steps of CPUs.
    pub steps: u64,
    /// Virtual nanoseconds.
    pub virtual_ns: u64,
    /// Faults.
    pub faults: u64,
    /// Real time.
    pub took: Duration,
    /// Seeds that failed, when, and by which promise.
    pub failed: Vec<(u64, u64, Violation)>,
}

impl Sum {
    /// As one JSON object.
    #[must_use]
    pub fn json(&self, scenario: &str) -> serde_json::Value {
        let failed = self.failed.iter().map(|(seed, at_ns, violation)| {
            json!({ "seed": seed, "at_ns": at_ns, "promise": violation.rule, "seen": violation.seen })
        });
        let failed: Vec<_> = failed.collect();
        let seconds = self.took.as_secs_f64();
        json!({
            "scenario": scenario, "runs": self.runs, "steps": self.steps, "virtual_ns": self.virtual_ns,
            "faults": self.faults, "seconds": seconds, "failed": failed,
        })
    }
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    runs: AtomicU64,
    steps: AtomicU64,
    virtual_us: AtomicU64,
    faults: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Vec<(u64, u64, Violation)>>,
}

impl Shared {
    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u64, Violation)>> {
        self.failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn work(&self, order: &Order<'_>) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= order.count {
                return;
            }
            let seed = order.first.wrapping_add(number);
            let outcome = run(order.scenario, seed, &order.options, None, None);
            self.runs.fetch_add(1, Ordering::Relaxed);
            self.steps.fetch_add(outcome.tally.steps, Ordering::Relaxed);
            self.virtual_us
                .fetch_add(outcome.tally.virtual_ns / 1000, Ordering::Relaxed);
            self.faults
                .fetch_add(outcome.tally.faults, Ordering::Relaxed);
            if let Some((at_ns, violation)) = outcome.violation {
                let goes_on = order.keep_going && violation.rule != NO_MEMORY;
                self.failures().push((seed, at_ns, violation));
                if !goes_on {
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Does it, with a line that tells how far it is; `stop` ends it early.
#[must_use]
pub fn many(order: &Order<'_>, stop: &AtomicBool) -> Sum {
    let shared = Shared::default();
    let began = Instant::now();
    let shows = std::io::stderr().is_terminal();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..order.jobs.max(1))
            .map(|_| scope.spawn(|| shared.work(order)))
            .collect();
        let mut shown = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(2));
            if stop.load(Ordering::Relaxed) && !shared.stop.swap(true, Ordering::Relaxed) {
                eprintln!("\nsim: stops when the runs that go on have ended; once more ends them");
            }
            if shows && shown.elapsed() >= PULSE {
                shown = Instant::now();
                eprint!("\r\x1b[K{}", line(&shared, order, began.elapsed()));
                let _ = std::io::stderr().flush();
            }
        }
    });
    if shows {
        eprint!("\r\x1b[K");
    }
    let failed = std::mem::take(&mut *shared.failures());
    let mut sum = Sum {
        runs: shared.runs.load(Ordering::Relaxed),
        steps: shared.steps.load(Ordering::Relaxed),
        virtual_ns: shared.virtual_us.load(Ordering::Relaxed) * 1000,
        faults: shared.faults.load(Ordering::Relaxed),
        took: began.elapsed(),
        failed,
    };
    sum.failed.sort_by_key(|(seed, ..)| *seed);
    sum
}

fn line(shared: &Shared, order: &Order<'_>, took: Duration) -> String {
    let runs = shared.runs.load(Ordering::Relaxed);
    let rate = runs as f64 / took.as_secs_f64().max(0.001);
    let hours = shared.virtual_us.load(Ordering::Relaxed) as f64 / 3.6e9;
    let left = order.count.saturating_sub(runs) as f64 / rate.max(0.001);
    format!(
        "{}: {runs} of {} seeds, {rate:.0} seeds/s, {hours:.2} virtual hours, {} faults, {} failed, {} left",
        order.scenario.name,
        order.count,
        shared.faults.load(Ordering::Relaxed),
        shared.failures().len(),
        duration(left),
    )
}

fn duration(seconds: f64) -> String {
    match seconds as u64 {
        0..=99 => format!("{} s", seconds as u64),
        whole => format!("{} min", whole.div_ceil(60)),
    }
}
