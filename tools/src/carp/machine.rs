//! A node of the demonstration that is a process: a VM or a vkernel.

use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Node;
use crate::lan::Port;
use crate::node::NodeSpec;
use crate::running::{ConsoleLine, RunningNode};

/// Boot takes a tenth of a second under emulation; this is for a host that does much else.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A node with one interface in the LAN.
pub struct Machine {
    spec: NodeSpec,
    port: Port,
    lines: Sender<ConsoleLine>,
    running: Option<RunningNode>,
}

impl Machine {
    /// The node `spec` at `port`, not yet started. What it prints also goes to `lines`.
    pub fn new(spec: NodeSpec, port: Port, lines: Sender<ConsoleLine>) -> Machine {
        Machine {
            spec,
            port,
            lines,
            running: None,
        }
    }

    fn running(&mut self) -> Result<&mut RunningNode> {
        let name = &self.spec.name;
        self.running
            .as_mut()
            .with_context(|| format!("{name} does not run"))
    }
}

impl Node for Machine {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn port(&self) -> Port {
        self.port
    }

    fn start(&mut self) -> Result<()> {
        self.running = Some(self.spec.start(Some(self.lines.clone()))?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        self.running()?.wait_for_prompt(BOOT_LIMIT).map(|_| ())
    }

    fn kill(&mut self) {
        self.running = None;
    }

    fn command(&mut self, line: &str) -> Result<String> {
        self.running()?.command(line, COMMAND_LIMIT)
    }

    fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(RunningNode::is_running)
    }
}
