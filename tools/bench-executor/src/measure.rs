//! Taking samples: one subject on fresh threads, many subjects in turns.
//!
//! Every subject of a case runs the same traffic, and they take turns: one round measures each of them once, so that a
//! host that slows down slows all. Many short samples rather than a few long ones: on a shared host the time to wake a
//! sleeping core jumps between levels, and a median over few samples jumps with it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tools::bench::report::median_and_spread;

use crate::{allocations, host};

/// Turns of the first, throw-away sample, which says how many fill a real one.
const TRIAL_TURNS: u64 = 500;

/// No sample takes seconds, even of a million timers; one that takes this long never ends.
const TOO_LONG: Duration = Duration::from_secs(30);

/// How long samples are taken again because another program had a core meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);

/// What one subject's sample says.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The figure: nanoseconds a turn, or bytes a thread.
    pub value: f64,
    /// Allocations a turn, by the thread that took the time.
    pub allocations: f64,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self {
            value,
            allocations: f64::NAN,
        }
    }
}

/// A sample being taken by this thread.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Duration,
    /// What one reading costs, which is not the subject's.
    reading: Duration,
    clock: fn() -> Duration,
    allocations: u64,
}

impl Stopwatch {
    /// For what one thread does: counts its processor time, which other programs do not lengthen.
    pub fn one_thread() -> Self {
        Self::start(host::processor_time)
    }

    /// For what several threads do: counts the time that passes.
    pub fn wall() -> Self {
        Self::start(host::wall_time)
    }

    fn start(clock: fn() -> Duration) -> Self {
        let before = clock();
        let started = clock();
        Self {
            started,
            reading: started - before,
            clock,
            allocations: allocations::count(),
        }
    }

    /// The sample of the `turns` turns since the start.
    pub fn stop(self, turns: u64) -> Sample {
        let elapsed = ((self.clock)() - self.started).saturating_sub(self.reading);
        let allocations = allocations::count() - self.allocations;
        Sample {
            value: elapsed.as_nanos() as f64 / turns as f64,
            allocations: allocations as f64 / turns as f64,
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each subject is measured, at most.
    pub rounds: u32,
    /// How long a sample of small turns takes, in nanoseconds.
    pub sample_ns: f64,
    /// For a look, not for a claim: a tenth of everything that is counted in millions.
    pub quick: bool,
}

/// How many turns a sample has, and how many samples there are.
#[derive(Clone, Copy, Debug)]
pub enum Turns {
    /// As many as fill a sample; as many rounds as the effort says.
    Fill,
    /// Exactly so many, in at most so many rounds.
    Exactly(u64, u32),
}

/// One subject and what it has shown.
pub struct Taken {
    /// Its name.
    pub name: &'static str,
    /// A figure a round.
    pub samples: Vec<f64>,
    /// The most allocations a turn in any round.
    pub allocations: f64,
    /// Samples during which another program had a core.
    pub interrupted: usize,
}

impl Taken {
    /// The median of its samples.
    pub fn median(&self) -> f64 {
        median_and_spread(&self.samples).0
    }
}

/// Measures `subjects` in turns. Who cannot run here, or stops doing so, drops out, and is named on standard error.
pub fn in_turns<M>(
    case: &str,
    subjects: impl IntoIterator<Item = (&'static str, M)>,
    turns: Turns,
    effort: Effort,
) -> Vec<Taken>
where
    M: Fn(u64) -> Result<Sample> + Copy + Send + 'static,
{
    let rounds = match turns {
        Turns::Fill => effort.rounds,
        Turns::Exactly(_, rounds) => effort.rounds.min(if effort.quick { 3 } else { rounds }),
    };
    let mut subjects: Vec<(M, u64, Taken)> =
        Vec::from_iter(subjects.into_iter().filter_map(|(name, measure)| {
            let turns = match turns {
                Turns::Fill => take(measure, TRIAL_TURNS).map(|(trial, _)| {
                    ((effort.sample_ns / trial.value) as u64).clamp(50, 20_000_000)
                }),
                Turns::Exactly(turns, _) => Ok(if effort.quick { turns / 10 } else { turns }),
            };
            let turns = turns
                .inspect_err(|error| eprintln!("{case}: {name} is missing: {error:#}"))
                .ok()?;
            let taken = Taken {
                name,
                samples: Vec::new(),
                allocations: 0.0,
                interrupted: 0,
            };
            Some((measure, turns, taken))
        }));
    for _ in 0..rounds {
        subjects.retain_mut(|(measure, turns, taken)| match take(*measure, *turns) {
            Ok((sample, interrupted)) => {
                taken.interrupted += usize::from(interrupted);
                taken.samples.push(sample.value);
                taken.allocations = taken.allocations.max(sample.allocations);
                true
            }
            Err(error) => {
                eprintln!("{case}: {} dropped out: {error:#}", taken.name);
                false
            }
        });
    }
    subjects.into_iter().map(|(.., taken)| taken).collect()
}

/// Takes one sample that no other program has interrupted, or, if there is none, an interrupted one and true.
fn take<M>(measure: M, turns: u64) -> Result<(Sample, bool)>
where
    M: Fn(u64) -> Result<Sample> + Copy + Send + 'static,
{
    let begin = Instant::now();
    loop {
        let before = host::times_interrupted();
        let sample = take_any(measure, turns, TOO_LONG)?;
        let interrupted = host::times_interrupted() != before;
        if !interrupted || begin.elapsed() > PATIENCE {
            return Ok((sample, interrupted));
        }
    }
}

/// Takes one sample on a thread of its own. A subject that hangs is left behind, not waited for.
fn take_any<M>(measure: M, turns: u64, limit: Duration) -> Result<Sample>
where
    M: Fn(u64) -> Result<Sample> + Send + 'static,
{
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more when it came too late.
        let _ = send.send(measure(turns));
    });
    let answer = receive.recv_timeout(limit);
    answer.map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            anyhow!("no answer in {limit:?}; it may go on, and disturb what follows")
        }
        RecvTimeoutError::Disconnected => anyhow!("it panicked; its message is above"),
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Effort = Effort {
        rounds: 3,
        sample_ns: 1e3,
        quick: false,
    };

    type Measure = fn(u64) -> Result<Sample>;

    #[test]
    fn a_subject_that_hangs_is_left_behind() {
        let hangs = |_| loop {
            thread::park();
        };
        let error = take_any(hangs, 1, Duration::from_millis(50)).expect_err("it never answers");
        assert!(error.to_string().contains("no answer"), "{error}");
    }

    #[test]
    fn a_subject_that_cannot_run_drops_out_and_the_others_go_on() {
        let works: Measure = |turns| Ok(Sample::from(turns as f64));
        let fails: Measure = |_| Err(anyhow!("not here"));
        let subjects = [("works", works), ("fails", fails)];
        let taken = in_turns("a case", subjects, Turns::Exactly(7, 2), FEW);
        assert_eq!(taken.len(), 1);
        assert_eq!(
            (taken[0].name, &taken[0].samples[..]),
            ("works", &[7.0, 7.0][..])
        );
    }

    #[test]
    fn a_sample_is_filled_with_turns() {
        // A turn of two nanoseconds, and then the number of turns for a figure.
        let turns: Measure = |turns| {
            let trial = turns == TRIAL_TURNS;
            Ok(Sample::from(if trial { 2.0 } else { turns as f64 }))
        };
        let effort = Effort {
            sample_ns: 4e3,
            ..FEW
        };
        let taken = in_turns("a case", [("turns", turns)], Turns::Fill, effort);
        assert_eq!(taken[0].samples, [2000.0; 3]);
    }
}
