//! A node to be, whatever it runs on: a virtual machine or a vkernel.
//!
//! [`NodeSpec`] says what a node is; [`NodeSpec::command`] turns it into the process, and
//! [`NodeSpec::start`] starts that with its console in our hands. What only hardware has (firmware,
//! discs, QEMU's own options) is in [`Guest`], which a node on a VM becomes.
//!
//! Decision: both kinds have one description and none of its fields means anything on one kind alone, so
//! that whatever is written for a node, a test or a demonstration, runs on either.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::sync::mpsc::Sender;

use anyhow::Result;

use crate::host;
use crate::kernel;
use crate::qemu::{Guest, Machine, Network, mac_text};
use crate::running::{ConsoleLine, RunningNode};

/// What a node runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A virtual machine: QEMU with this board.
    Vm(Machine),
    /// A process of this host, without any hardware.
    Vkernel,
}

impl NodeKind {
    /// The usual VM.
    pub const VM: NodeKind = NodeKind::Vm(Machine::Q35);

    /// Brings the kernel for this kind up to date and says where it is.
    ///
    /// # Errors
    /// It does not build, or the environment names a file that is not there.
    pub fn build(self) -> Result<PathBuf> {
        match self {
            NodeKind::Vm(_) => kernel::build(),
            NodeKind::Vkernel => kernel::build_vkernel(),
        }
    }

    /// The environment variable that names another kernel file for this kind.
    pub fn kernel_variable(self) -> &'static str {
        match self {
            NodeKind::Vm(_) => "ANAX_KERNEL",
            NodeKind::Vkernel => "ANAX_VKERNEL",
        }
    }

    /// What the kernel calls its first network interface.
    pub fn first_interface(self) -> &'static str {
        match self {
            NodeKind::Vm(_) => "vtnet0",
            NodeKind::Vkernel => "vke0",
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            &NodeKind::VM => f.write_str("vm"),
            NodeKind::Vm(machine) => machine.fmt(f),
            NodeKind::Vkernel => f.write_str("vkernel"),
        }
    }
}

impl FromStr for NodeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vm" => Ok(NodeKind::VM),
            "vkernel" => Ok(NodeKind::Vkernel),
            machine => match machine.parse() {
                Ok(machine) => Ok(NodeKind::Vm(machine)),
                Err(_) => Err(format!(
                    "nodes run on vm, vkernel, q35, pc or microvm, not on `{text}`"
                )),
            },
        }
    }
}

/// The MAC address of the node with that number: QEMU's prefix, as it gives out itself.
pub fn node_mac(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0x00, 0x12, 0x34, number]
}

/// One node to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its hostname, which is also the prompt's.
    pub name: String,
    /// What it runs on.
    pub kind: NodeKind,
    /// The kernel, built for that kind.
    pub kernel: PathBuf,
    /// How many CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The kernel's environment: names and values.
    pub environment: Vec<(String, String)>,
    /// A file of console commands to run at boot.
    pub rc: Option<PathBuf>,
    /// Interfaces in order, each with its MAC address.
    pub networks: Vec<(Network, [u8; 6])>,
    /// The file that the binary trace goes to.
    pub trace: Option<PathBuf>,
    /// The network namespace it runs in (`ip netns`); needs root.
    pub inside: Option<String>,
}

impl NodeSpec {
    /// A node with four CPUs, 256 MiB and nothing else; `kernel` is what [`NodeKind::build`] gave.
    pub fn new(name: &str, kind: NodeKind, kernel: PathBuf) -> NodeSpec {
        NodeSpec {
            name: name.to_owned(),
            kind,
            kernel,
            cpus: 4,
            memory_mib: 256,
            environment: Vec::new(),
            rc: None,
            networks: Vec::new(),
            trace: None,
            inside: None,
        }
    }

    /// The process, not yet started. It ends when the node switches itself off.
    ///
    /// # Errors
    /// A program that it needs is missing.
    pub fn command(&self) -> Result<Command> {
        match self.kind {
            NodeKind::Vm(machine) => self.guest(machine).command(),
            NodeKind::Vkernel => self.vkernel(),
        }
    }

    /// Starts it. Lines of its console also go to `lines`.
    ///
    /// # Errors
    /// Those of [`NodeSpec::command`] and [`RunningNode::start`].
    pub fn start(&self, lines: Option<Sender<ConsoleLine>>) -> Result<RunningNode> {
        RunningNode::start(&self.name, self.command()?, lines)
    }

    /// The hostname and the rest of the environment.
    fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let others = self.environment.iter();
        std::iter::once(("hostname", &self.name[..])).chain(others.map(|(n, v)| (&n[..], &v[..])))
    }

    fn guest(&self, machine: Machine) -> Guest {
        let words: Vec<String> = self
            .environment()
            .map(|(name, value)| match value.contains(char::is_whitespace) {
                true => format!("{name}=\"{value}\""),
                false => format!("{name}={value}"),
            })
            .collect();
        let trace = self.trace.as_ref();
        Guest {
            kernel: Some(self.kernel.clone()),
            machine,
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            append: words.join(" "),
            rc: self.rc.clone(),
            networks: self.networks.clone(),
            trace_serial: trace.map(|path| format!("file:{}", path.display())),
            inside: self.inside.clone(),
            ..Guest::default()
        }
    }

    fn vkernel(&self) -> Result<Command> {
        let mut command = host::command_inside(self.inside.as_deref(), &self.kernel)?;
        command.arg("-n").arg(self.cpus.to_string());
        command.arg("-m").arg(format!("{}M", self.memory_mib));
        for (name, value) in self.environment() {
            command.arg("-e").arg(format!("{name}={value}"));
        }
        if let Some(rc) = &self.rc {
            command.arg("--rc").arg(rc);
        }
        if let Some(trace) = &self.trace {
            command.arg("--trace").arg(trace);
        }
        for (network, mac) in &self.networks {
            let plug = match network {
                Network::Lan(path) => path.display().to_string(),
                Network::Tap(name) => format!("tap:{name}"),
                Network::User => anyhow::bail!("a vkernel has no network of QEMU's"),
            };
            command.arg("-I").arg(format!("{plug}={}", mac_text(mac)));
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: NodeKind) -> NodeSpec {
        NodeSpec {
            cpus: 2,
            memory_mib: 64,
            environment: vec![("rc".to_owned(), "echo one;echo two".to_owned())],
            rc: Some(PathBuf::from("/rc")),
            networks: vec![(
                Network::Lan(PathBuf::from("/lan/a.sock")),
                [2, 0, 0, 0, 0, 1],
            )],
            ..NodeSpec::new("a", kind, PathBuf::from("/k"))
        }
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [NodeKind::VM, NodeKind::Vm(Machine::Pc), NodeKind::Vkernel] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("vax".parse::<NodeKind>().unwrap_err().contains("vkernel"));
    }

    #[test]
    fn a_vkernel_is_told_in_its_own_options() {
        let command = spec(NodeKind::Vkernel).command().unwrap();
        let arguments: Vec<&str> = command.get_args().flat_map(|word| word.to_str()).collect();
        assert_eq!(
            arguments,
            [
                "-n",
                "2",
                "-m",
                "64M",
                "-e",
                "hostname=a",
                "-e",
                "rc=echo one;echo two",
                "--rc",
                "/rc",
                "-I",
                "/lan/a.sock=02:00:00:00:00:01"
            ]
        );
    }

    #[test]
    fn values_with_blanks_are_quoted_on_a_kernel_command_line() {
        let guest = spec(NodeKind::VM).guest(Machine::Q35);
        assert_eq!(guest.append, "hostname=a rc=\"echo one;echo two\"");
    }
}
