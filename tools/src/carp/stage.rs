//! Everything that takes part in the demonstration, put together: nodes, LAN and client.
//!
//! A [`Stage`] is used as the [`Demonstration`] in it; the nodes' files and sockets live as long.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::demonstration::Demonstration;
use super::machine::Machine;
use super::screen::Screen;
use super::{Scenario, Watch};
use crate::client::{Client, Settings};
use crate::host;
use crate::lan::Lan;
use crate::node::{NodeKind, NodeSpec, node_mac};
use crate::qemu::Network;

const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xcc];

/// What can be chosen.
pub struct Cast {
    /// What each node runs on, the preferred one first.
    pub nodes: [NodeKind; 2],
    /// CPUs of each node.
    pub cpus: u32,
    /// Sub-second timers.
    pub fast: bool,
    /// Where everything that passes the LAN is written.
    pub pcap: Option<PathBuf>,
}

/// A demonstration that is ready to run.
pub struct Stage {
    demonstration: Demonstration<Machine>,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// Builds the kernels, starts the LAN and the client. No node runs yet.
    ///
    /// # Errors
    /// A kernel does not build, or the host refuses a file or a socket.
    pub fn set_up(cast: &Cast, screen: Screen) -> Result<Stage> {
        let scenario = Scenario::new(cast.fast, cast.nodes);
        let directory = host::socket_directory()?;
        let lan = Lan::start(directory.path(), cast.pcap.as_deref())?;
        let (sender, lines) = mpsc::channel();
        let mut nodes = Vec::new();
        for (index, ((name, ..), kind)) in scenario.nodes.into_iter().zip(cast.nodes).enumerate() {
            let rc = directory.path().join(format!("{name}.rc"));
            std::fs::write(&rc, scenario.configuration(index, kind.first_interface()))
                .with_context(|| format!("cannot write {}", rc.display()))?;
            let port = lan.add_port(name)?;
            let spec = NodeSpec {
                cpus: cast.cpus,
                rc: Some(rc),
                networks: vec![(Network::Lan(lan.socket(name)), node_mac(index as u8 + 1))],
                ..NodeSpec::new(name, kind, kind.build()?)
            };
            nodes.push(Machine::new(spec, port, sender.clone()));
        }
        let settings = Settings {
            address: (scenario.client, scenario.prefix),
            mac: CLIENT_MAC,
            target: scenario.virtual_address,
            interval: Duration::from_millis(1),
        };
        let client = Client::start(lan.attach("client")?, settings)?;
        let Ok(nodes) = nodes.try_into() else {
            unreachable!("a scenario has two nodes")
        };
        let watch = Watch::new(lines);
        let demonstration = Demonstration {
            scenario,
            lan,
            client,
            nodes,
            watch,
            screen,
        };
        Ok(Stage {
            demonstration,
            _directory: directory,
        })
    }
}

impl Deref for Stage {
    type Target = Demonstration<Machine>;

    fn deref(&self) -> &Demonstration<Machine> {
        &self.demonstration
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Demonstration<Machine> {
        &mut self.demonstration
    }
}
