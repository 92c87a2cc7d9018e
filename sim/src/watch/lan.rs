//! The LAN's promises: what arrives is what was sent, once, and everybody is reached when nothing is in the way.

use crate::act::{Act, node_name};
use crate::promise::{Observer, Violation};
use crate::world::World;

/// The way of a few packets, through a few CPUs.
const SLACK_NS: u64 = 5_000_000;

/// The observer. Client number i asks node i; the one after the last node asks node 0.
pub struct LanWatch {
    nodes: usize,
    interval_ns: u64,
    /// When something was last done to the world.
    disturbed_ns: u64,
    /// A cable has doubled frames at some time.
    doubled: bool,
    /// Everything was put right, and nothing has been broken since.
    healed: bool,
    /// By node: what its console has shown since then.
    shown: Vec<String>,
    /// By node: it was told to ping after that.
    pings: Vec<bool>,
    looked: u64,
}

impl LanWatch {
    /// After a disturbance everybody is reached again within this: one ARP retry at its slowest.
    pub const RECOVERY_NS: u64 = net::config::ARP_RETRY_NS + 100_000_000;

    /// Watches `nodes` nodes, each asked every `interval_ns`.
    #[must_use]
    pub fn new(nodes: usize, interval_ns: u64) -> Self {
        Self {
            nodes,
            interval_ns,
            disturbed_ns: 0,
            doubled: false,
            healed: false,
            shown: vec![String::new(); nodes],
            pings: vec![false; nodes],
            looked: 0,
        }
    }

    fn target(&self, client: usize) -> usize {
        if client < self.nodes { client } else { 0 }
    }
}

impl Observer for LanWatch {
    fn acted(&mut self, act: &Act, world: &World) -> Result<(), Violation> {
        match act {
            Act::Cable(_, cable) => {
                self.doubled |= cable.duplicate_ppm > 0;
                self.healed = false;
            }
            Act::Heal => self.healed = true,
            Act::Type(node, _) => {
                if self.healed {
                    self.pings[*node] = true;
                    self.shown[*node].clear();
                }
                return Ok(());
            }
            _ => self.healed = false,
        }
        self.disturbed_ns = world.now_ns();
        Ok(())
    }

    fn shown(&mut self, node: usize, bytes: &[u8], _: &World) -> Result<(), Violation> {
        self.shown[node].push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }

    fn look(&mut self, world: &World) -> Result<u64, Violation> {
        let now_ns = world.now_ns();
        for number in 0..=self.nodes {
            let (client, node) = (world.client(number), node_name(self.target(number)));
            if client.counts.wrong > 0 {
                return Err(Violation::new(
                    "what arrives is what was sent",
                    format!("client {number} of {node} got another reply"),
                ));
            }
            if client.counts.again > 0 && !self.doubled {
                return Err(Violation::new(
                    "a request is answered once",
                    format!("client {number} of {node} got a reply twice"),
                ));
            }
            let silence_ns = now_ns.saturating_sub(client.last_answered_ns.unwrap_or(0));
            let due = self.healed && now_ns - self.disturbed_ns > Self::RECOVERY_NS;
            if due && silence_ns > 3 * self.interval_ns + SLACK_NS {
                let seen = format!(
                    "client {number} has no answer of {node} for {} ms",
                    silence_ns / 1_000_000
                );
                return Err(Violation::new(
                    "everybody is reached when nothing is in the way",
                    seen,
                ));
            }
            self.looked += u64::from(due);
        }
        Ok(now_ns + self.interval_ns)
    }

    fn ended(&mut self, _: &World) -> Result<(), Violation> {
        for (node, shown) in self
            .shown
            .iter()
            .enumerate()
            .filter(|(node, _)| self.pings[*node])
        {
            // What it is told last is a ping when nothing is in the way; the first node's console is busy.
            if node != 0 && !shown.contains("5 packets transmitted, 5 packets received") {
                let seen = format!("{} shows: {}", node_name(node), shown.trim());
                return Err(Violation::new(
                    "nodes reach each other when nothing is in the way",
                    seen,
                ));
            }
        }
        if self.looked == 0 {
            return Err(Violation::new(
                "every run ends with all reached",
                "the watch never had anything to look at",
            ));
        }
        Ok(())
    }
}
