//! The curves: what an operation costs among a hundred things and among a million.
//!
//! A curve is flat if its highest point is at most one and a half times its lowest. An operation that takes two nanoseconds
//! and must touch a cold cache line cannot be: beside such a curve stands its limit, a bare walk over as much memory in the
//! same turns, and how much more than the walk it grows.

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

/// The points of a curve, and those of its limit.
const NAMES: [&str; 5] = [
    "among 1e2",
    "among 1e3",
    "among 1e4",
    "among 1e5",
    "among 1e6",
];
const OF_LIMIT: [&str; 5] = [
    "bare walk among 1e2",
    "bare walk among 1e3",
    "bare walk among 1e4",
    "bare walk among 1e5",
    "bare walk among 1e6",
];

/// How often each point is measured.
const ROUNDS: u32 = 10;

/// Operations of a sample, at least; among more things, [`LAPS`] with each.
const OPERATIONS: u64 = 200_000;
const LAPS: u64 = 4;

type Measure = fn(u64, u64) -> Result<Sample>;

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
    measure: Measure,
    /// What the memory alone costs.
    limit: Option<Measure>,
}

const fn curve(panel: &'static str, name: &'static str, measure: Measure) -> Curve {
    Curve {
        panel,
        name,
        ours: true,
        because: "",
        measure,
        limit: None,
    }
}

impl Curve {
    /// Says what the same memory costs without the operation.
    const fn beside(mut self, limit: Measure) -> Self {
        self.limit = Some(limit);
        self
    }

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
pub const CURVES: [Curve; 7] = [
    curve("threads", "yield", yields_of::<ours::Ours>)
        .beside(bare::walk_of::<3, 3>)
        .because("each poll touches another thread's block, which among so many is in no cache"),
    curve("threads", "tokio LocalSet", yields_of::<tokio::Local>).for_comparison(),
    curve("ports", "inline call", ours::calls_among::<false>)
        .beside(bare::walk_of::<4, 1>)
        .because(
            "among a hundred a call takes some ten cycles, so that one line of memory, all it touches of a port, is \
             several calls long",
        ),
    curve("ports", "queued call", ours::calls_among::<true>).because(
        "each call touches another port and its thread, which among so many are in no cache",
    ),
    curve("timers", "insert", timers::insert_of::<ours::Ours>)
        .because("among so many, the room of a new one is in no cache, and at first not mapped"),
    curve("timers", "cancel", timers::cancel_of::<ours::Ours>)
        .because("among so many, the sleep and its timer's room are in no cache"),
    curve("timers", "fire", |count, _| {
        timers::fire_of::<ours::Ours>(count, count.max(1000))
    })
    .because("among few, what the loop does once for all counts; among many, they are in no cache"),
];

/// How many things, and the nanoseconds of an operation among them.
pub type Figures = Vec<(u64, f64)>;

/// A measured curve.
pub struct Points {
    /// The curve.
    pub curve: &'static Curve,
    /// Its figures.
    pub points: Figures,
    /// Those of its limit; none if it has no limit.
    pub limit: Figures,
    /// A row for each point, and those that say how much it rises.
    pub rows: Vec<Row>,
}

impl Curve {
    /// Measures every point, and its limit's, in turns.
    pub fn measure(&'static self, effort: Effort) -> Points {
        let count = SIZES.len() - usize::from(effort.quick);
        let points = |names: [&'static str; 5], measure: Measure| {
            let points = SIZES.into_iter().zip(names).take(count);
            points.map(move |(size, name)| {
                let turns = OPERATIONS.max(LAPS * size);
                (name, move |_| measure(size, turns))
            })
        };
        let limit = self.limit.into_iter();
        let subjects =
            points(NAMES, self.measure).chain(limit.flat_map(|limit| points(OF_LIMIT, limit)));
        let title = format!("{}: {}", self.panel, self.name);
        let taken = measure::in_turns(&title, subjects, Turns::Exactly(0, ROUNDS), effort);
        let row = |taken: &measure::Taken| {
            let name = format!("{title}, {}", taken.name);
            Row::new("executor", &name, "ns", &taken.samples)
        };
        let mut rows: Vec<_> = taken.iter().map(row).collect();
        let figures = |names: [&str; 5]| -> Figures {
            let find = |name| taken.iter().find(|taken| taken.name == name);
            let points = SIZES.into_iter().zip(names);
            points
                .filter_map(|(size, name)| Some((size, find(name)?.median())))
                .collect()
        };
        let (points, limit) = (figures(NAMES), figures(OF_LIMIT));
        // A curve with a point missing is not flat.
        let whole = |figures: &Figures| figures.len() == count;
        let rise = whole(&points).then(|| highest(&points) / lowest(&points));
        let row = Row::new("executor", &format!("{title}, rise"), "x", rise.as_slice());
        rows.push(if self.ours { row.at_most(FLAT) } else { row });
        if self.limit.is_some() {
            let growth = |figures: &Figures| highest(figures) - lowest(figures);
            let beside =
                (whole(&points) && whole(&limit)).then(|| growth(&points) / growth(&limit));
            let name = format!("{title}, growth beside the walk's");
            rows.push(Row::new("executor", &name, "x", beside.as_slice()));
        }
        Points {
            curve: self,
            points,
            limit,
            rows,
        }
    }
}

fn highest(figures: &Figures) -> f64 {
    figures.iter().map(|(_, ns)| *ns).fold(0.0, f64::max)
}

fn lowest(figures: &Figures) -> f64 {
    figures
        .iter()
        .map(|(_, ns)| *ns)
        .fold(f64::INFINITY, f64::min)
}
