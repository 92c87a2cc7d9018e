//! The curves: what an operation costs among a hundred things and among a million.
//!
//! A curve is flat if its highest point is at most one and a half times its lowest. What must touch a cold cache line for
//! each operation cannot be: the bare list shows what that alone costs.

use anyhow::Result;
use tools::bench::report::Row;

use crate::measure::{self, Effort, Sample, Turns};
use crate::peers::tokio;
use crate::timers;
use crate::traffic::yields_of;
use crate::{bare, ours};

/// How much a flat curve may rise.
const FLAT: f64 = 1.5;

/// How many things there are at each point.
pub const SIZES: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

/// How often each point is measured.
const ROUNDS: u32 = 10;

/// Operations of a sample, at least; among more things, one with each.
const OPERATIONS: u64 = 200_000;

/// One curve.
pub struct Curve {
    /// The panel it is drawn in.
    pub panel: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Ours, which must be flat, or something to compare it with.
    pub ours: bool,
    /// What is known of why, if it is not flat.
    pub because: &'static str,
    measure: fn(u64, u64) -> Result<Sample>,
}

const fn curve(
    panel: &'static str,
    name: &'static str,
    measure: fn(u64, u64) -> Result<Sample>,
) -> Curve {
    Curve {
        panel,
        name,
        ours: true,
        because: "",
        measure,
    }
}

impl Curve {
    const fn for_comparison(mut self) -> Self {
        self.ours = false;
        self
    }

    /// Says why it may not be flat.
    const fn because(mut self, because: &'static str) -> Self {
        self.because = because;
        self
    }
}

/// All curves.
pub const CURVES: [Curve; 8] = [
    curve("threads", "yield", yields_of::<ours::Ours>)
        .because("each poll touches another thread's block, which among so many is in no cache"),
    curve("threads", "tokio LocalSet", yields_of::<tokio::Local>).for_comparison(),
    curve("threads", "bare list", bare::list_of).for_comparison(),
    curve("ports", "inline call", ours::calls_among::<false>)
        .because("each call touches another port, which among so many is in no cache"),
    curve("ports", "queued call", ours::calls_among::<true>).because(
        "each call touches another port and its thread, which among so many are in no cache",
    ),
    curve("timers", "insert", timers::insert_of::<ours::Ours>)
        .because("among so many, the timers that a new one comes between are in no cache"),
    curve("timers", "cancel", timers::cancel_of::<ours::Ours>)
        .because("among so many, a timer and its neighbours are in no cache"),
    curve("timers", "fire", |count, _| {
        timers::fire_of::<ours::Ours>(count, count.max(1000))
    })
    .because("among few, what the loop does once for all counts; among many, they are in no cache"),
];

/// A measured curve.
pub struct Points {
    /// The curve.
    pub curve: &'static Curve,
    /// How many things, and the nanoseconds of an operation among them.
    pub points: Vec<(u64, f64)>,
    /// A row for each point, and one that says how much it rises.
    pub rows: Vec<Row>,
}

impl Curve {
    /// Measures every point in turns.
    pub fn measure(&'static self, effort: Effort) -> Points {
        let sizes = &SIZES[..SIZES.len() - usize::from(effort.quick)];
        let measure = self.measure;
        let points = sizes.iter().zip(["1e2", "1e3", "1e4", "1e5", "1e6"]);
        let points =
            points.map(|(&size, name)| (name, move |_| measure(size, OPERATIONS.max(size))));
        let title = format!("{}: {}", self.panel, self.name);
        let taken = measure::in_turns(&title, points, Turns::Exactly(0, ROUNDS), effort);
        let named = |taken: &measure::Taken| format!("{title}, among {}", taken.name);
        let mut rows: Vec<_> = taken
            .iter()
            .map(|taken| Row::new("executor", &named(taken), "ns", &taken.samples))
            .collect();
        let points: Vec<_> = taken
            .iter()
            .map(|taken| {
                (
                    taken.name.parse::<f64>().unwrap_or_default() as u64,
                    taken.median(),
                )
            })
            .collect();
        let figures = || points.iter().map(|(_, figure)| *figure);
        let rise = figures().fold(0.0, f64::max) / figures().fold(f64::INFINITY, f64::min);
        // A curve with a point missing is not flat.
        let rise = if points.len() == sizes.len() {
            &[rise][..]
        } else {
            &[]
        };
        let row = Row::new("executor", &format!("{title}, rise"), "x", rise);
        rows.push(if self.ours { row.at_most(FLAT) } else { row });
        Points {
            curve: self,
            points,
            rows,
        }
    }
}
