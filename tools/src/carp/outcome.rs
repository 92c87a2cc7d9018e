//! What the steps came to: the table for people and the rows for programs.

use std::time::Duration;

use super::Scenario;
use crate::bench::report::Row;
use crate::client::Window;

/// A step's outcome.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was done.
    pub step: Step,
    /// What the client saw.
    pub window: Window,
    /// The master at the end; none where the step did not settle.
    pub master: Option<String>,
    /// Names of who answered before and after the outage.
    pub hand_over: (String, String),
    /// Why the step did not end as it should.
    pub problem: Option<String>,
}

/// The steps. Cutting and healing the LAN are judged apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Both nodes are started.
    Start,
    /// The master's process is killed.
    Crash,
    /// It comes back and preempts.
    Return,
    /// The master hands over on purpose.
    HandOver,
    /// The LAN is cut in two, the client on the backup's side.
    Cut,
    /// The halves are joined.
    Heal,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Step; 6] = [
        Step::Start,
        Step::Crash,
        Step::Return,
        Step::HandOver,
        Step::Cut,
        Step::Heal,
    ];

    /// Its name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Step::Start => "start to first answer",
            Step::Crash => "master killed",
            Step::Return => "it returns and preempts",
            Step::HandOver => "hand-over on purpose",
            Step::Cut => "LAN cut in two",
            Step::Heal => "LAN healed",
        }
    }
}

/// The table at the end of one run.
pub fn table(outcomes: &[Outcome]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{:<26}{:>12}  {:<16}{:>7}  {:<8}{}\n",
        "step", "outage", "answers", "lost", "master", "result"
    );
    for outcome in outcomes {
        let (from, to) = &outcome.hand_over;
        let answers = if outcome.window.outage < Duration::from_millis(2) {
            "never stopped".to_owned()
        } else {
            format!("{from} -> {to}")
        };
        let _ = writeln!(
            text,
            "{:<26}{:>9.1} ms  {:<16}{:>7}  {:<8}{}",
            outcome.step.title(),
            outcome.window.outage.as_secs_f64() * 1000.0,
            answers,
            outcome.window.lost,
            outcome.master.as_deref().unwrap_or("-"),
            outcome.problem.as_deref().unwrap_or("ok"),
        );
        if outcome.window.own_stall > Duration::from_millis(5) {
            let stall = outcome.window.own_stall.as_millis();
            let _ = writeln!(
                text,
                "{:<26}the client itself stood still for {stall} ms",
                ""
            );
        }
    }
    text
}

/// The outages of one or several runs as rows with their limits.
pub fn rows(scenario: &Scenario, runs: &[Vec<Outcome>]) -> Vec<Row> {
    let bench = if scenario.advbase == 0 {
        "carp --fast"
    } else {
        "carp"
    };
    let mut rows = Vec::new();
    for step in Step::ALL {
        let of_step = || runs.iter().flatten().filter(|outcome| outcome.step == step);
        let samples: Vec<f64> = of_step()
            .map(|outcome| outcome.window.outage.as_secs_f64() * 1000.0)
            .collect();
        let row = Row::new(bench, step.title(), "ms", &samples);
        let mut row = match step {
            Step::Crash => {
                let formula = scenario.master_down(1).as_secs_f64() * 1000.0;
                let limit = scenario.crash_limit.as_secs_f64() * 1000.0;
                row.beside("the formula", formula).at_most(limit)
            }
            Step::HandOver => row.at_most(5.0),
            Step::Start | Step::Return | Step::Cut | Step::Heal => row,
        };
        row.ok &= of_step().all(|outcome| outcome.problem.is_none());
        rows.push(row);
        if step == Step::HandOver {
            let lost: Vec<f64> = of_step()
                .map(|o| o.window.lost_of_every_tenth as f64)
                .collect();
            let title = "hand-over: lost at 10 ms spacing";
            rows.push(Row::new(bench, title, "pings", &lost).at_most(0.0));
        }
    }
    rows
}
