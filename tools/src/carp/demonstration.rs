//! The five steps, and what each of them cost.
//!
//! Every step is: note the moment, do it, wait until the LAN has settled, judge what the client saw
//! from that moment on. Settled means: exactly one running node is MASTER, and it is the one that
//! answers, for as long as an advertisement takes to come by. What nodes print is believed while
//! waiting; at the end of a step each is asked, and the answers must agree.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::outcome::{Outcome, Step};
use super::screen::Screen;
use super::{Node, Scenario, State, Watch, parse_status};
use crate::client::Client;
use crate::host;
use crate::lan::{Lan, Link};

/// How often waiting looks again.
const PULSE: Duration = Duration::from_millis(10);
/// The other part of a divided LAN.
const FAR_SIDE: u8 = 1;

/// Everything that takes part.
pub struct Demonstration<N: Node> {
    /// The set-up.
    pub scenario: Scenario,
    /// The network.
    pub lan: Lan,
    /// Who judges.
    pub client: Client,
    /// The nodes; the first is the preferred one.
    pub nodes: [N; 2],
    /// Their states.
    pub watch: Watch,
    /// Where it shows.
    pub screen: Screen,
}

impl<N: Node> Demonstration<N> {
    /// Runs the five steps from both nodes off. An error is something that prevents going on; a
    /// step that merely ended wrong is in its outcome.
    pub fn run(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for step in Step::ALL {
            outcomes.push(self.step(step)?);
        }
        Ok(outcomes)
    }

    /// Switches both nodes off and makes the LAN whole, as before the first step.
    pub fn reset(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            self.power_off(index);
            self.lan
                .set_link(self.nodes[index].port(), Link::default())?;
        }
        Ok(())
    }

    /// Does one step.
    pub fn step(&mut self, step: Step) -> Result<Outcome> {
        let moment = Instant::now();
        let before = self.master();
        self.screen
            .event(moment, &format!("-- {}", self.announcement(step, before)));
        let problem = match step {
            Step::Start => {
                for index in 0..self.nodes.len() {
                    self.power_on(index)?;
                }
                for node in &mut self.nodes {
                    node.wait_until_ready()?;
                }
                self.settle(moment)?
            }
            Step::Crash => {
                self.power_off(before.unwrap_or(0));
                self.settle(moment)?
            }
            Step::Return => {
                let off = (0..self.nodes.len()).find(|&index| self.state(index) == State::Off);
                let off = off.unwrap_or(0);
                self.power_on(off)?;
                self.nodes[off].wait_until_ready()?;
                let back = self.wait(self.patience(), |d| d.master() == Some(off))?;
                let settled = self.settle(moment)?;
                settled.or_else(|| (!back).then(|| "it did not preempt".to_owned()))
            }
            Step::HandOver => {
                let master = before.unwrap_or(0);
                let other = 1 - master;
                let refused = self.nodes[master].command("ifconfig carp0 down")?;
                let moved = self.wait(self.patience(), |d| {
                    d.answered_by(other, moment) && d.state(other) == State::Master
                })?;
                let accepted = self.nodes[master].command("ifconfig carp0 up")?;
                let back = self.wait(self.patience(), |d| d.master() == Some(master))?;
                let complaint = [refused, accepted]
                    .into_iter()
                    .find(|output| output.contains("ifconfig:"))
                    .map(|output| output.trim().to_owned());
                complaint
                    .or(self.settle(moment)?)
                    .or_else(|| (!moved).then(|| "the other node never answered".to_owned()))
                    .or_else(|| (!back).then(|| "it did not come back".to_owned()))
            }
            Step::Cut => {
                let master = before.unwrap_or(0);
                let link = Link {
                    part: FAR_SIDE,
                    ..Link::default()
                };
                self.lan.set_link(self.nodes[master].port(), link)?;
                let other = 1 - master;
                let taken = self.wait(self.patience(), |d| {
                    d.answered_by(other, moment) && d.state(other) == State::Master
                })?;
                self.linger(self.quiet())?;
                (!taken).then(|| "nobody answers on the client's side".to_owned())
            }
            Step::Heal => {
                for index in 0..self.nodes.len() {
                    self.lan
                        .set_link(self.nodes[index].port(), Link::default())?;
                }
                self.settle(moment)?
            }
        };
        self.judge(step, moment, problem)
    }

    fn announcement(&self, step: Step, master: Option<usize>) -> String {
        let name = master.map_or("the master", |index| self.nodes[index].name());
        match step {
            Step::Start => "1. both nodes are started".to_owned(),
            Step::Crash => format!("2. {name}, the master, is killed (SIGKILL)"),
            Step::Return => "3. the killed node returns and preempts".to_owned(),
            Step::HandOver => format!("4. {name} hands over on purpose, and comes back"),
            Step::Cut => format!("5. the LAN is cut in two: {name} | the other node, the client"),
            Step::Heal => "   the LAN is whole again".to_owned(),
        }
    }

    fn judge(&mut self, step: Step, moment: Instant, problem: Option<String>) -> Result<Outcome> {
        let window = self.client.window(moment, Instant::now());
        let name = |port| {
            let node = self.nodes.iter().find(|node| Some(node.port()) == port);
            node.map_or("nobody", |node| node.name()).to_owned()
        };
        let hand_over = (name(window.hand_over.0), name(window.hand_over.1));
        let master = self
            .master()
            .map(|index| self.nodes[index].name().to_owned());
        let result = match &problem {
            None => "ok".to_owned(),
            Some(problem) => format!("FAILED: {problem}"),
        };
        let outage = window.outage.as_secs_f64() * 1000.0;
        self.screen.event(
            Instant::now(),
            &format!("   outage {outage:.1} ms, {result}"),
        );
        Ok(Outcome {
            step,
            window,
            master,
            hand_over,
            problem,
        })
    }

    fn power_on(&mut self, index: usize) -> Result<()> {
        self.watch.set(self.nodes[index].name(), State::Init);
        self.nodes[index].start()
    }

    fn power_off(&mut self, index: usize) {
        self.nodes[index].kill();
        self.watch.set(self.nodes[index].name(), State::Off);
    }

    fn state(&self, index: usize) -> State {
        self.watch.state(self.nodes[index].name())
    }

    /// The master, if there is exactly one.
    fn master(&self) -> Option<usize> {
        match [self.state(0), self.state(1)] {
            [State::Master, State::Master] => None,
            [State::Master, _] => Some(0),
            [_, State::Master] => Some(1),
            _ => None,
        }
    }

    /// Whether node `index` has given an answer since `moment`, and the newest one at that.
    fn answered_by(&self, index: usize, moment: Instant) -> bool {
        let reply = self.client.log().last_reply();
        reply.is_some_and(|r| r.at > moment && r.from == self.nodes[index].port())
    }

    /// Long enough for anything that will happen to have happened.
    fn patience(&self) -> Duration {
        3 * self.scenario.master_down(1) + Duration::from_secs(5)
    }

    /// How long a settled LAN must stay settled: an advertisement of either node has come by.
    fn quiet(&self) -> Duration {
        self.scenario.master_down(1) / 2 + Duration::from_millis(200)
    }

    /// Looks until `reached`, or until `limit` has passed (then false).
    fn wait(&mut self, limit: Duration, reached: impl Fn(&Self) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.look()?;
            if reached(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(PULSE);
        }
    }

    fn linger(&mut self, time: Duration) -> Result<()> {
        self.wait(time, |_| false).map(|_| ())
    }

    /// Takes in what happened and shows it.
    fn look(&mut self) -> Result<()> {
        host::check_interrupt()?;
        let Demonstration { watch, screen, .. } = self;
        watch.update(|line, state, reason| {
            screen.event(line.at, &format!("   {} {state} ({reason})", line.node));
        });
        for node in &mut self.nodes {
            if self.watch.state(node.name()) != State::Off && !node.is_running() {
                bail!("{}: its process ended by itself", node.name());
            }
        }
        let Demonstration {
            watch,
            screen,
            nodes,
            client,
            ..
        } = self;
        screen.status(|| status_line(nodes, watch, client));
        Ok(())
    }

    /// Waits until exactly one master answers and goes on doing so; then asks the nodes.
    fn settle(&mut self, moment: Instant) -> Result<Option<String>> {
        let deadline = Instant::now() + self.patience();
        let quiet = self.quiet();
        let mut since: Option<(usize, Instant)> = None;
        loop {
            self.look()?;
            let now = Instant::now();
            let fresh = self.client.log().last_reply().is_some_and(|r| {
                now.saturating_duration_since(r.at) < Duration::from_millis(100).max(quiet / 8)
            });
            let master = self
                .master()
                .filter(|&index| fresh && self.answered_by(index, moment));
            since = match (master, since) {
                (Some(index), Some((same, at))) if index == same => Some((index, at)),
                (Some(index), _) => Some((index, now)),
                (None, _) => None,
            };
            if let Some((index, at)) = since
                && now.saturating_duration_since(at) >= quiet
            {
                return self.ask(index);
            }
            if now >= deadline {
                return Ok(Some(self.complaint()));
            }
            std::thread::sleep(PULSE);
        }
    }

    fn complaint(&self) -> String {
        let states: Vec<String> = (0..self.nodes.len())
            .map(|index| format!("{} {}", self.nodes[index].name(), self.state(index)))
            .collect();
        let answers = match self.client.log().last_reply() {
            None => "nobody ever answered".to_owned(),
            Some(reply) => format!("last answer {:.1} s ago", reply.at.elapsed().as_secs_f64()),
        };
        format!(
            "no single answering master ({}; {answers})",
            states.join(", ")
        )
    }

    /// [`Self::settle`] for the tests of failure.
    #[cfg(test)]
    pub fn settle_for_test(&mut self, moment: Instant) -> Result<Option<String>> {
        self.settle(moment)
    }

    /// Every running node must say what the watch believes.
    fn ask(&mut self, master: usize) -> Result<Option<String>> {
        for index in 0..self.nodes.len() {
            if self.state(index) == State::Off {
                continue;
            }
            let output = self.nodes[index].command("ifconfig carp0")?;
            let expected = if index == master {
                State::Master
            } else {
                State::Backup
            };
            let said = parse_status(&output);
            if said != Some(expected) {
                let said = said.map_or("nothing".to_owned(), |state| state.to_string());
                let name = self.nodes[index].name();
                return Ok(Some(format!("{name} says {said}, not {expected}")));
            }
            self.watch.set(self.nodes[index].name(), expected);
        }
        Ok(None)
    }
}

fn status_line<N: Node>(nodes: &[N; 2], watch: &Watch, client: &Client) -> String {
    let log = client.log();
    let states: Vec<String> = nodes
        .iter()
        .map(|n| format!("{} {:<7}", n.name(), watch.state(n.name())))
        .collect();
    let silence = log
        .last_reply()
        .map(|reply| (reply.at.elapsed(), reply.from));
    let answers = match silence {
        Some((since, from)) if since < Duration::from_millis(50) => {
            let node = nodes.iter().find(|node| node.port() == from);
            format!("{} answers", node.map_or("?", |node| node.name()))
        }
        Some((since, _)) => format!("NOBODY answers since {} ms", since.as_millis()),
        None => "nobody answers yet".to_owned(),
    };
    format!("   {}   {answers}", states.join("  "))
}
