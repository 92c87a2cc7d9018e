//! The form of every result: a table for people, one JSON object a row for programs.
//!
//! A [`Row`] carries its own limit, so that a table says by itself whether it is good; the peer in
//! it was measured in the same run, on the same machine, or is a formula and says so.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Good when not above the limit.
    #[serde(rename = "at most")]
    AtMost,
    /// Good when not below the limit.
    #[serde(rename = "at least")]
    AtLeast,
    /// Shown for comparison; always good.
    #[serde(rename = "none")]
    None,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The bench, such as `boot`.
    pub bench: String,
    /// What was measured.
    pub row: String,
    /// The unit of every figure in this row.
    pub unit: String,
    /// The median.
    pub value: f64,
    /// The largest less the smallest.
    pub spread: f64,
    /// What it stands beside.
    pub peer: Option<String>,
    /// The peer's median.
    pub peer_value: Option<f64>,
    /// What it must keep to.
    pub limit_value: Option<f64>,
    /// In which direction.
    pub goal: Goal,
    /// Whether it does.
    pub ok: bool,
}

impl Row {
    /// The median and spread of `samples`, without a limit and without a peer.
    pub fn new(bench: &str, row: &str, unit: &str, samples: &[f64]) -> Row {
        let (value, spread) = median_and_spread(samples);
        Row {
            bench: bench.to_owned(),
            row: row.to_owned(),
            unit: unit.to_owned(),
            value,
            spread,
            peer: None,
            peer_value: None,
            limit_value: None,
            goal: Goal::None,
            ok: !samples.is_empty(),
        }
    }

    /// Beside a peer.
    pub fn beside(mut self, peer: &str, value: f64) -> Row {
        self.peer = Some(peer.to_owned());
        self.peer_value = Some(value);
        self
    }

    /// Good when not above `limit`.
    pub fn at_most(mut self, limit: f64) -> Row {
        self.ok = self.ok && self.value <= limit;
        (self.limit_value, self.goal) = (Some(limit), Goal::AtMost);
        self
    }

    /// Good when not below `limit`.
    pub fn at_least(mut self, limit: f64) -> Row {
        self.ok = self.ok && self.value >= limit;
        (self.limit_value, self.goal) = (Some(limit), Goal::AtLeast);
        self
    }
}

/// The median (of an even number, the mean of the middle two) and the largest less the smallest;
/// of nothing, NaN.
pub fn median_and_spread(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted[..] {
        [] => (f64::NAN, f64::NAN),
        [first, .., last] | [first @ last] => {
            let middle = sorted.len() / 2;
            let median = if sorted.len().is_multiple_of(2) {
                (sorted[middle - 1] + sorted[middle]) / 2.0
            } else {
                sorted[middle]
            };
            (median, last - first)
        }
    }
}

/// Prints rows as one JSON object a line, or as a table.
pub fn print(rows: &[Row], json: bool) -> Result<()> {
    if json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else if !rows.is_empty() {
        print!("{}", table(rows));
    }
    Ok(())
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let header = ["", "value", "spread", "peer", "", "limit", ""].map(str::to_owned);
    let mut lines = vec![header];
    for row in rows {
        let number = |value: f64| format!("{} {}", figure(value), row.unit);
        let limit = match (row.goal, row.limit_value) {
            (Goal::AtMost, Some(limit)) => format!("<= {}", number(limit)),
            (Goal::AtLeast, Some(limit)) => format!(">= {}", number(limit)),
            _ => String::new(),
        };
        lines.push([
            row.row.clone(),
            number(row.value),
            figure(row.spread),
            row.peer_value.map(number).unwrap_or_default(),
            row.peer.clone().unwrap_or_default(),
            limit,
            verdict(row).to_owned(),
        ]);
    }
    aligned(&lines)
}

/// What is only shown for comparison is not called good.
fn verdict(row: &Row) -> &'static str {
    match (row.ok, row.goal) {
        (false, _) => "FAILED",
        (true, Goal::None) => "",
        (true, _) => "ok",
    }
}

/// Columns of equal width; the first and the wordy ones to the left, figures to the right.
fn aligned(lines: &[[String; 7]]) -> String {
    let widths: [usize; 7] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            if width == 0 {
                continue;
            }
            let _ = match column {
                1 | 2 | 3 | 5 => write!(row, "{cell:>width$}  "),
                _ => write!(row, "{cell:<width$}  "),
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Three significant places, as far as they are of use.
fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_of_few() {
        assert_eq!(median_and_spread(&[3.0, 1.0, 2.0]), (2.0, 2.0));
        assert_eq!(median_and_spread(&[4.0, 1.0]), (2.5, 3.0));
        assert_eq!(median_and_spread(&[5.0]), (5.0, 0.0));
        assert!(median_and_spread(&[]).0.is_nan());
    }

    #[test]
    fn a_row_judges_itself_and_keeps_its_json_names() {
        let row = Row::new("boot", "q35, 4 vCPUs", "s", &[0.1])
            .at_most(0.12)
            .beside("empty", 0.08);
        assert!(row.ok);
        assert!(!row.clone().at_most(0.05).ok);
        assert!(
            !Row::new("boot", "none", "s", &[]).at_most(1.0).ok,
            "nothing measured is not good"
        );
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"bench":"boot","row":"q35, 4 vCPUs","unit":"s","value":0.1,"spread":0.0,"peer":"empty","peer_value":0.08,"limit_value":0.12,"goal":"at most","ok":true}"#
        );
        assert!(table(std::slice::from_ref(&row)).contains("<= 0.12 s  ok"));
        assert!(table(&[row.at_most(0.05)]).contains("<= 0.050 s  FAILED"));
        assert!(!table(&[Row::new("boot", "shown", "s", &[0.1])]).contains("ok"));
    }
}
