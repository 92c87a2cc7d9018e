//! A node that is a VM.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Node;
use crate::command::boot::node_mac;
use crate::lan::Port;
use crate::qemu::{Guest, Network};
use crate::vm::{ConsoleLine, Vm};

/// Boot takes a tenth of a second under emulation; this is for a host that does much else.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A node that is a VM with one interface in the LAN.
pub struct Machine {
    name: String,
    port: Port,
    guest: Guest,
    lines: Sender<ConsoleLine>,
    vm: Option<Vm>,
}

impl Machine {
    /// A node of `cpus` vCPUs at the port whose socket is `socket`, not yet started. `number` gives
    /// it its MAC address; `rc` is the file that configures it.
    pub fn new(
        name: &str,
        number: u8,
        (port, socket): (Port, PathBuf),
        (kernel, rc): (PathBuf, PathBuf),
        cpus: u32,
        lines: Sender<ConsoleLine>,
    ) -> Machine {
        let guest = Guest {
            kernel: Some(kernel),
            cpus,
            append: format!("hostname={name}"),
            rc: Some(rc),
            networks: vec![(Network::Lan(socket), node_mac(number))],
            ..Guest::default()
        };
        Machine {
            name: name.to_owned(),
            port,
            guest,
            lines,
            vm: None,
        }
    }

    fn vm(&mut self) -> Result<&mut Vm> {
        let name = &self.name;
        self.vm
            .as_mut()
            .with_context(|| format!("{name} does not run"))
    }
}

impl Node for Machine {
    fn name(&self) -> &str {
        &self.name
    }

    fn port(&self) -> Port {
        self.port
    }

    fn start(&mut self) -> Result<()> {
        self.vm = Some(Vm::start(
            &self.name,
            &self.guest,
            Some(self.lines.clone()),
        )?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        self.vm()?.wait_for_prompt(BOOT_LIMIT).map(|_| ())
    }

    fn kill(&mut self) {
        self.vm = None;
    }

    fn command(&mut self, line: &str) -> Result<String> {
        self.vm()?.command(line, COMMAND_LIMIT)
    }

    fn is_running(&mut self) -> bool {
        self.vm.as_mut().is_some_and(Vm::is_running)
    }
}
