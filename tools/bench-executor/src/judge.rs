//! Measuring a case, and judging what came of it.
//!
//! A row of ours says by itself whether it is good; those of peers and limits are there for comparison. What a goal rests
//! on and could not be measured makes the row fail: nothing measured is not good.

use tools::bench::report::{Row, median_and_spread};

use crate::measure::{self, Effort, Taken};
use crate::rows::{Case, Goal, Role, Subject};

/// A judged figure.
pub struct Line {
    /// Its case.
    pub case: &'static Case,
    /// Its subject.
    pub subject: &'static str,
    /// The side of the subject.
    pub role: Role,
    /// The figure.
    pub row: Row,
    /// Other programs had a core during most of its samples, again and again.
    pub busy: bool,
}

impl Case {
    /// Measures everyone, ours first. With `only` given, that subject alone, without judging it.
    pub fn measure(&'static self, effort: Effort, only: Option<&str>) -> Vec<Line> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if cores < self.cores {
            eprintln!("no row for {}: it needs {} cores", self.name, self.cores);
            return Vec::new();
        }
        let wanted = self
            .subjects
            .iter()
            .filter(|subject| only.is_none_or(|only| only == subject.name))
            .map(|subject| (subject.name, subject.measure));
        let taken = measure::in_turns(self.name, wanted, self.turns, effort);
        let mut lines = Vec::new();
        for subject in self.subjects {
            if only.is_some_and(|only| only != subject.name) {
                continue;
            }
            let found = find(&taken, subject.name);
            let samples = found.map_or(&[][..], |taken| &taken.samples);
            let mut row = self.row(subject.name, self.unit, samples);
            match subject.role {
                Role::Ours { goal, .. } if only.is_none() => row = self.judge(row, goal, &taken),
                // A peer that cannot run here is named beside ours.
                Role::Peer | Role::Limit if samples.is_empty() => continue,
                _ => {}
            }
            lines.push(self.line(subject, row, found));
            if let (Role::Ours { free: true, .. }, Some(found)) = (subject.role, found) {
                let name = format!("{}, allocations", subject.name);
                let row = self.row(&name, "", &[found.allocations]).at_most(0.0);
                lines.push(self.line(subject, row, Some(found)));
            }
        }
        lines
    }

    fn row(&self, subject: &str, unit: &str, samples: &[f64]) -> Row {
        Row::new(
            "executor",
            &format!("{}: {subject}", self.name),
            unit,
            samples,
        )
    }

    fn line(&'static self, subject: &Subject, row: Row, taken: Option<&Taken>) -> Line {
        Line {
            case: self,
            subject: subject.name,
            role: subject.role,
            row,
            busy: taken.is_some_and(|taken| 2 * taken.interrupted > taken.samples.len()),
        }
    }

    /// The row beside the best peer, with its limit.
    fn judge(&self, row: Row, goal: Goal, taken: &[Taken]) -> Row {
        let peers = || {
            let all = self.subjects.iter();
            all.filter(|subject| matches!(subject.role, Role::Peer))
                .map(|subject| (subject.name, find(taken, subject.name)))
        };
        let best = peers()
            .filter_map(|(_, taken)| taken)
            .min_by(|a, b| a.median().total_cmp(&b.median()));
        let missing: String = peers()
            .filter(|(_, taken)| taken.is_none())
            .map(|(name, _)| format!(", no {name} here"))
            .collect();
        // A goal that cannot be known is not reached.
        let median = |name| find(taken, name).map_or(f64::NAN, Taken::median);
        let most = match goal {
            Goal::OfBest(factor) => factor * best.map_or(f64::NAN, Taken::median),
            Goal::Of(factor, name) => factor * median(name),
            Goal::Above(more, name) => more + median(name),
            Goal::Within(name) => find(taken, name).map_or(f64::NAN, |taken| fence(&taken.samples)),
        };
        let beside = match goal {
            Goal::OfBest(_) => best,
            Goal::Of(_, name) | Goal::Above(_, name) | Goal::Within(name) => find(taken, name),
        };
        match beside {
            Some(beside) => row.beside(&format!("{}{missing}", beside.name), beside.median()),
            None => row,
        }
        .at_most(most)
    }
}

fn find<'t>(taken: &'t [Taken], name: &str) -> Option<&'t Taken> {
    taken.iter().find(|taken| taken.name == name)
}

/// Above this a sample would be an outlier among `samples` (Tukey): one and a half times as far above the upper quartile
/// as that is above the lower one.
fn fence(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().div_ceil(2);
    let lower = median_and_spread(&sorted[..middle]).0;
    let upper = median_and_spread(&sorted[sorted.len() - middle..]).0;
    upper + 1.5 * (upper - lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::CASES;

    fn taken(name: &'static str, samples: &[f64]) -> Taken {
        Taken {
            name,
            samples: samples.to_vec(),
            allocations: 0.0,
            interrupted: 0,
        }
    }

    fn judged(goal: Goal, value: f64, others: &[Taken]) -> Row {
        let case = CASES.iter().find(|case| case.name.contains("uncontended"));
        let case = case.expect("a case with parking_lot and one exchange");
        case.judge(case.row("ours", "ns", &[value]), goal, others)
    }

    #[test]
    fn every_goal_names_a_subject_of_its_case() {
        for case in CASES {
            for subject in case.subjects {
                let Role::Ours { goal, .. } = subject.role else {
                    continue;
                };
                let known = match goal {
                    Goal::OfBest(_) => case
                        .subjects
                        .iter()
                        .any(|subject| matches!(subject.role, Role::Peer)),
                    Goal::Of(_, name) | Goal::Above(_, name) | Goal::Within(name) => {
                        case.subjects.iter().any(|subject| subject.name == name)
                    }
                };
                assert!(known, "{}: nobody to judge {} by", case.name, subject.name);
            }
        }
    }

    #[test]
    fn names_of_cases_and_subjects_are_unique() {
        let mut names: Vec<_> = CASES
            .iter()
            .flat_map(|case| {
                case.subjects
                    .iter()
                    .map(|subject| (case.name, subject.name))
            })
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_goal_is_kept_or_not() {
        let others = [
            taken("parking_lot", &[10.0]),
            taken("one exchange", &[4.0, 5.0, 6.0, 7.0, 8.0]),
        ];
        assert!(judged(Goal::Of(0.5, "parking_lot"), 5.0, &others).ok);
        assert!(!judged(Goal::Of(0.5, "parking_lot"), 5.1, &others).ok);
        assert!(!judged(Goal::OfBest(0.5), 5.1, &others).ok);
        assert!(judged(Goal::Above(2.0, "one exchange"), 8.0, &others).ok);
        assert!(!judged(Goal::Above(2.0, "one exchange"), 8.1, &others).ok);
        // The quartiles are 5 and 7.
        assert!(judged(Goal::Within("one exchange"), 10.0, &others).ok);
        assert!(!judged(Goal::Within("one exchange"), 10.1, &others).ok);
    }

    #[test]
    fn a_limit_is_no_peer() {
        let row = judged(Goal::OfBest(1.0), 5.0, &[taken("one exchange", &[4.0])]);
        assert!(!row.ok, "there is no peer to be as good as");
        assert_eq!(row.peer, None);
    }

    #[test]
    fn a_row_whose_goal_could_not_be_measured_fails() {
        let row = judged(Goal::Of(0.5, "parking_lot"), 1.0, &[]);
        assert!(!row.ok);
    }

    #[test]
    fn a_peer_that_is_missing_is_named() {
        let case = CASES.iter().find(|case| case.name.starts_with("yield"));
        let case = case.expect("a case with many peers");
        let others = [taken("tokio", &[30.0]), taken("embassy", &[40.0])];
        let row = case.judge(case.row("ours", "ns", &[6.0]), Goal::OfBest(0.25), &others);
        let peer = row.peer.expect("it stands beside the best");
        assert!(
            peer.starts_with("tokio,") && peer.contains("no glommio here"),
            "{peer}"
        );
    }
}
