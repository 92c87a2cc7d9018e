//! The CARP demonstration: two nodes, a client, and five things that happen to them.
//!
//! [`Scenario`] is the set-up in numbers. [`Node`] is what the demonstration needs of a node, so
//! that `cargo test` can run all of it against scripted nodes ([`demonstration`] has the steps,
//! [`machine`] the nodes that are processes). [`Watch`] follows the nodes' states by what they print.

pub mod demonstration;
#[cfg(test)]
mod fake;
pub mod machine;
pub mod outcome;
pub mod screen;
pub mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Result;

use crate::lan::Port;
use crate::node::NodeKind;
use crate::running::ConsoleLine;

/// The set-up: addresses and timers.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The address that fails over.
    pub virtual_address: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix: u8,
    /// The virtual host id.
    pub vhid: u8,
    /// Seconds between advertisements; 0 makes advskew alone count.
    pub advbase: u8,
    /// The two nodes: name, own address, advskew (256ths of a second). The first is preferred.
    pub nodes: [(&'static str, Ipv4Addr, u8); 2],
    /// The client's address.
    pub client: Ipv4Addr,
    /// How long nobody may answer, in the median, when the master crashes.
    pub crash_limit: Duration,
}

impl Scenario {
    /// The usual timers, or with `fast` the shortest that nodes of these kinds keep up with: an emulated
    /// VM on a busy host stands still for longer than 23 ms, which the backup takes for its end (measured
    /// with four busy loops on two cores: eight times in 15 s, with 47 ms never). Between vkernels that takes a host on
    /// which more than three threads want each core.
    pub fn new(fast: bool, nodes: [NodeKind; 2]) -> Scenario {
        let (advbase, skews, crash_limit_ms) = match (fast, nodes) {
            (false, _) => (1, [0, 100], 3450),
            (true, [NodeKind::Vkernel, NodeKind::Vkernel]) => (0, [1, 2], 25),
            (true, _) => (0, [2, 4], 60),
        };
        Scenario {
            virtual_address: Ipv4Addr::new(192, 0, 2, 10),
            prefix: 24,
            vhid: 1,
            advbase,
            nodes: [
                ("a", Ipv4Addr::new(192, 0, 2, 1), skews[0]),
                ("b", Ipv4Addr::new(192, 0, 2, 2), skews[1]),
            ],
            client: Ipv4Addr::new(192, 0, 2, 100),
            crash_limit: Duration::from_millis(crash_limit_ms),
        }
    }

    /// How long node `index`, a backup, waits for the master: three advertisement intervals of its
    /// own and its skew; at advbase 0 three times its skew.
    pub fn master_down(&self, index: usize) -> Duration {
        let skew = u64::from(self.nodes[index].2);
        let steps = match self.advbase {
            0 => 3 * skew.max(1),
            advbase => 3 * 256 * u64::from(advbase) + skew,
        };
        Duration::from_nanos(steps * 1_000_000_000 / 256)
    }

    /// The console commands that make node `index`, whose first interface is `interface`, what it is.
    pub fn configuration(&self, index: usize, interface: &str) -> String {
        let (_, address, skew) = self.nodes[index];
        let Scenario {
            virtual_address,
            prefix,
            vhid,
            advbase,
            ..
        } = self;
        format!(
            "ifconfig {interface} {address}/{prefix} up\n\
             sysctl net.inet.carp.preempt=1\n\
             ifconfig carp0 create\n\
             ifconfig carp0 vhid {vhid} pass secret advbase {advbase} advskew {skew} \
             {virtual_address}/{prefix} up\n"
        )
    }
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its process does not run.
    Off,
    /// No state yet.
    Init,
    /// It waits.
    Backup,
    /// It answers for the address.
    Master,
}

impl State {
    /// The state CARP calls `word`.
    fn parse(word: &str) -> Option<State> {
        match word {
            "INIT" => Some(State::Init),
            "BACKUP" => Some(State::Backup),
            "MASTER" => Some(State::Master),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Off => "off",
            State::Init => "INIT",
            State::Backup => "BACKUP",
            State::Master => "MASTER",
        })
    }
}

/// What the demonstration needs of a node.
pub trait Node {
    /// Its name.
    fn name(&self) -> &str;
    /// Its place in the LAN.
    fn port(&self) -> Port;
    /// Powers it on; does not wait.
    fn start(&mut self) -> Result<()>;
    /// Waits until it takes commands.
    fn wait_until_ready(&mut self) -> Result<()>;
    /// Cuts its power.
    fn kill(&mut self);
    /// Runs a console command.
    fn command(&mut self, line: &str) -> Result<String>;
    /// Whether it runs.
    fn is_running(&mut self) -> bool;
}

/// The new state in a line such as `carp0: BACKUP -> MASTER (master timed out)`, and the reason.
pub fn parse_transition(line: &str) -> Option<(State, String)> {
    let (_, rest) = line.split_once("carp0: ")?;
    let (_, after) = rest.split_once(" -> ")?;
    let (word, reason) = after.split_once(' ').unwrap_or((after, ""));
    let reason = reason.trim().trim_start_matches('(').trim_end_matches(')');
    Some((State::parse(word)?, reason.to_owned()))
}

/// The state in the output of `ifconfig carp0`: `carp: MASTER vhid 1 advbase 1 advskew 0`.
pub fn parse_status(output: &str) -> Option<State> {
    output.lines().find_map(|line| {
        let (_, rest) = line.split_once("carp: ")?;
        State::parse(rest.split_whitespace().next()?)
    })
}

/// Follows the nodes' states by the lines they print.
pub struct Watch {
    lines: Receiver<ConsoleLine>,
    states: BTreeMap<String, State>,
}

impl Watch {
    /// Follows the lines that arrive there.
    pub fn new(lines: Receiver<ConsoleLine>) -> Watch {
        Watch {
            lines,
            states: BTreeMap::new(),
        }
    }

    /// A node's state.
    pub fn state(&self, node: &str) -> State {
        self.states.get(node).copied().unwrap_or(State::Off)
    }

    /// Notes what is known otherwise: power switched on or off, or an answer to a question.
    pub fn set(&mut self, node: &str, state: State) {
        self.states.insert(node.to_owned(), state);
    }

    /// Takes in what was printed; `seen` gets each change of state.
    pub fn update(&mut self, mut seen: impl FnMut(&ConsoleLine, State, &str)) {
        while let Ok(line) = self.lines.try_recv() {
            // A killed node's last words may still be on their way.
            if self.state(&line.node) == State::Off {
                continue;
            }
            if let Some((state, reason)) = parse_transition(&line.text) {
                self.states.insert(line.node.clone(), state);
                seen(&line, state, &reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMS: [NodeKind; 2] = [NodeKind::VM; 2];

    #[test]
    fn states_are_read_from_what_nodes_print() {
        let line = "[   3.391204] cpu0: carp0: BACKUP -> MASTER (master timed out)";
        let (state, reason) = parse_transition(line).unwrap();
        assert_eq!((state, &reason[..]), (State::Master, "master timed out"));
        assert_eq!(
            parse_transition("carp0: INIT -> BACKUP").unwrap().0,
            State::Backup
        );
        assert_eq!(parse_transition("vtnet0: link up"), None);
        let output = "carp0: flags=1<UP>\n\tcarp: BACKUP vhid 1 advbase 1 advskew 100\n";
        assert_eq!(parse_status(output), Some(State::Backup));
    }

    /// The kernel's service writes the interface's name, then the change as CARP words it.
    #[test]
    fn every_change_of_state_is_read_as_carp_writes_it() {
        let states = [
            (carp::State::Init, State::Init),
            (carp::State::Backup, State::Backup),
            (carp::State::Master, State::Master),
        ];
        for (to, expected) in states {
            let (from, reason) = (carp::State::Backup, carp::Reason::MasterTimedOut);
            let change = carp::StateChange { from, to, reason };
            let read = parse_transition(&format!("[   3.391204] cpu0: carp0: {change}"));
            assert_eq!(read, Some((expected, "master timed out".to_owned())));
        }
        let demotion = carp::action::DemotionChange {
            name: "boot".to_owned(),
            by: 128,
            total: 128,
        };
        assert_eq!(parse_transition(&format!("carp0: {demotion}")), None);
    }

    #[test]
    fn the_formula_gives_the_waiting_times() {
        let usual = Scenario::new(false, VMS);
        assert_eq!(usual.master_down(0), Duration::from_secs(3));
        assert_eq!(usual.master_down(1).as_millis(), 3390);
        let fast = |nodes| Scenario::new(true, nodes).master_down(1).as_micros();
        assert_eq!(fast(VMS), 46_875);
        assert_eq!(fast([NodeKind::Vkernel, NodeKind::VM]), 46_875);
        assert_eq!(fast([NodeKind::Vkernel; 2]), 23_437);
    }

    #[test]
    fn the_configuration_is_in_dragonfly_syntax() {
        let text = Scenario::new(false, VMS).configuration(1, "vke0");
        assert!(
            text.starts_with("ifconfig vke0 192.0.2.2/24 up\n"),
            "{text}"
        );
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "ifconfig carp0 vhid 1 pass secret advbase 1 advskew 100 192.0.2.10/24 up"
        );
    }
}
