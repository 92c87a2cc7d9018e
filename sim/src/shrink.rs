//! Makes a failing run smaller: leaves out what can be left out with the same promise still broken.
//!
//! Delta debugging over the script (A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002):
//! halves first, then ever smaller pieces, until no single act can go. The promise must be the same; when and where it
//! breaks may change.

use crate::run::run;
use crate::scenarios::{Options, Scenario};

/// The acts (by their numbers in the whole script) of a shorter script that still breaks `rule`; `progress` is told how
/// many are left.
#[must_use]
pub fn shrink(
    scenario: &Scenario,
    seed: u64,
    options: &Options,
    rule: &str,
    mut progress: impl FnMut(usize),
) -> Vec<usize> {
    let fails = |keep: &[usize]| {
        let outcome = run(scenario, seed, options, Some(keep), None);
        outcome
            .violation
            .is_some_and(|(_, violation)| violation.rule == rule)
    };
    let whole = run(scenario, seed, options, None, None);
    let mut keep: Vec<usize> = whole.acts.iter().map(|(number, _)| *number).collect();
    let mut pieces = 2;
    while keep.len() > 1 || pieces == 2 && !keep.is_empty() {
        let size = keep.len().div_ceil(pieces).max(1);
        let without = (0..keep.len()).step_by(size).find_map(|from| {
            let rest: Vec<usize> = keep
                .iter()
                .enumerate()
                .filter(|(at, _)| !(from..from + size).contains(at))
                .map(|(_, act)| *act)
                .collect();
            fails(&rest).then_some(rest)
        });
        match without {
            Some(rest) => {
                keep = rest;
                progress(keep.len());
                pieces = (pieces - 1).max(2);
            }
            None if size == 1 => break,
            None => pieces = (pieces * 2).min(keep.len()),
        }
    }
    keep
}
