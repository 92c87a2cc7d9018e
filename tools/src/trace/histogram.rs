//! Distributions of durations: logarithmic buckets for the eye, exact percentiles for the reader.
//!
//! [`Histogram`] is filled from a trace by [`run_times`] and [`wake_latencies`].
//!
//! Decision: bucket edges are 1, 2 and 5 times a power of ten, because people read them at once;
//! powers of two would be a shift instead of a search, which does not matter on a host.

use super::model::Trace;

/// Durations in buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The buckets that are not empty and those between them.
    pub buckets: Vec<Bucket>,
    /// How many durations there are.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// Nine of ten are at most this long.
    pub p90_ns: u64,
    /// Ninety-nine of a hundred are at most this long.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Durations from one edge to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest duration that belongs here; 0 in the first of all.
    pub from_ns: u64,
    /// The shortest that belongs to the next.
    pub to_ns: u64,
    /// How many.
    pub count: u64,
}

impl Histogram {
    /// Sorts `durations_ns` into buckets; `None` when there are none.
    pub fn new(mut durations_ns: Vec<u64>) -> Option<Self> {
        durations_ns.sort_unstable();
        let (first, max_ns) = (*durations_ns.first()?, *durations_ns.last()?);
        let mut buckets = Vec::new();
        let mut from_ns = 0;
        let mut rest = &durations_ns[..];
        for to_ns in edges_ns() {
            if to_ns > first {
                let (here, later) = rest.split_at(rest.partition_point(|ns| *ns < to_ns));
                buckets.push(Bucket {
                    from_ns,
                    to_ns,
                    count: here.len() as u64,
                });
                rest = later;
            }
            if rest.is_empty() {
                break;
            }
            from_ns = to_ns;
        }
        let at = |percent: usize| durations_ns[(durations_ns.len() - 1) * percent / 100];
        Some(Self {
            buckets,
            count: durations_ns.len() as u64,
            sum_ns: durations_ns
                .iter()
                .fold(0, |sum, ns| sum.saturating_add(*ns)),
            p50_ns: at(50),
            p90_ns: at(90),
            p99_ns: at(99),
            max_ns,
        })
    }
}

/// 100 ns, 200, 500, 1 us and so on, and an edge that is above everything.
fn edges_ns() -> impl Iterator<Item = u64> {
    let decades = (2..=18).map(|power| 10u64.pow(power));
    decades
        .flat_map(|decade| [1, 2, 5].map(|step| decade * step))
        .chain([u64::MAX])
}

/// How long the polls were. A poll whose ends were not both recorded does not count.
pub fn run_times(trace: &Trace) -> Option<Histogram> {
    let polls = trace.cpus.iter().flat_map(|cpu| &cpu.polls);
    Histogram::new(
        polls
            .filter(|poll| !poll.cut)
            .map(|poll| poll.span.duration_ns())
            .collect(),
    )
}

/// How long threads were runnable before they ran.
pub fn wake_latencies(trace: &Trace) -> Option<Histogram> {
    let polls = trace.cpus.iter().flat_map(|cpu| &cpu.polls);
    Histogram::new(polls.filter_map(|poll| poll.latency_ns).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_half_open_and_percentiles_exact() {
        let histogram = Histogram::new(vec![999, 1_000, 1_999, 2_000, 70_000]).unwrap();
        let shown: Vec<_> = histogram
            .buckets
            .iter()
            .map(|b| (b.from_ns, b.to_ns, b.count))
            .collect();
        assert_eq!(
            shown,
            [
                (500, 1_000, 1),
                (1_000, 2_000, 2),
                (2_000, 5_000, 1),
                (5_000, 10_000, 0),
                (10_000, 20_000, 0),
                (20_000, 50_000, 0),
                (50_000, 100_000, 1)
            ]
        );
        assert_eq!((histogram.p50_ns, histogram.max_ns), (1_999, 70_000));
    }

    #[test]
    fn extremes_find_a_bucket() {
        assert_eq!(Histogram::new(vec![]), None);
        let histogram = Histogram::new(vec![0, u64::MAX - 1]).unwrap();
        assert_eq!(
            histogram
                .buckets
                .iter()
                .map(|bucket| bucket.count)
                .sum::<u64>(),
            2
        );
        assert_eq!(histogram.buckets[0].from_ns, 0);
    }
}
