//! A QEMU command line for an Anax node that runs on a VM.
//!
//! [`Guest`] says what a node is; [`Guest::command`] turns it into the process. Devices are named
//! one by one (`-nodefaults`): what is not asked for is not there, which is also what keeps start-up
//! near the floor.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use anyhow::Result;

use crate::host::{self, Accelerator};

/// QEMU's machine types that the kernel knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// PCI Express, the default.
    #[default]
    Q35,
    /// The older i440FX board.
    Pc,
    /// The small machine without a legacy BIOS.
    Microvm,
}

impl Machine {
    /// All of them.
    pub const ALL: [Machine; 3] = [Machine::Q35, Machine::Pc, Machine::Microvm];

    /// The value of QEMU's `-machine`.
    pub fn argument(self) -> &'static str {
        match self {
            Machine::Q35 => "q35",
            Machine::Pc => "pc",
            Machine::Microvm => "microvm",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.argument())
    }
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Machine::ALL
            .into_iter()
            .find(|machine| machine.argument() == text)
            .ok_or_else(|| format!("no machine `{text}`: q35, pc or microvm"))
    }
}

/// What a network interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A port of our switch, by the path of its socket.
    Lan(PathBuf),
    /// QEMU's own network address translation (10.0.2.0/24, the host is 10.0.2.2).
    User,
    /// A tap device that exists already (needs the rights for it).
    Tap(String),
}

/// One node to be.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The image for `-kernel`; none boots `cdrom`.
    pub kernel: Option<PathBuf>,
    /// A bootable ISO image.
    pub cdrom: Option<PathBuf>,
    /// Firmware in place of the machine's own.
    pub firmware: Option<PathBuf>,
    /// The board.
    pub machine: Machine,
    /// How many vCPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Words of the kernel command line.
    pub append: String,
    /// A file of console commands to run at boot.
    pub rc: Option<PathBuf>,
    /// Interfaces in order, each with its MAC address.
    pub networks: Vec<(Network, [u8; 6])>,
    /// Where the first serial port goes, in QEMU's words.
    pub serial: String,
    /// Where the second serial port (the trace) goes, in QEMU's words.
    pub trace_serial: Option<String>,
    /// The network namespace QEMU runs in (`ip netns`); needs root.
    pub inside: Option<String>,
    /// Further arguments, given as they are.
    pub extra: Vec<String>,
}

impl Default for Guest {
    fn default() -> Self {
        Guest {
            kernel: None,
            cdrom: None,
            firmware: None,
            machine: Machine::Q35,
            cpus: 4,
            memory_mib: 256,
            append: String::new(),
            rc: None,
            networks: Vec::new(),
            serial: "stdio".to_owned(),
            trace_serial: None,
            inside: None,
            extra: Vec::new(),
        }
    }
}

impl Guest {
    /// The QEMU process, not yet started. It ends on the guest's power-off and on its reset.
    pub fn command(&self) -> Result<Command> {
        let qemu = host::need_program("qemu-system-x86_64", "qemu-system-x86")?;
        let mut command = host::command_inside(self.inside.as_deref(), &qemu)?;
        command.args(["-machine", self.machine.argument()]);
        command.args(["-accel", Accelerator::choose().argument(), "-cpu", "max"]);
        command.args([
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &format!("{}M", self.memory_mib),
        ]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        command.args(["-serial", &self.serial]);
        if let Some(trace) = &self.trace_serial {
            if self.machine == Machine::Microvm {
                // microvm ignores a second -serial without a word.
                command.args(["-chardev", &chardev(trace)]);
                command.args(["-device", "isa-serial,iobase=0x2f8,irq=3,chardev=trace"]);
            } else {
                command.args(["-serial", trace]);
            }
        }
        if let Some(firmware) = &self.firmware {
            command.arg("-bios").arg(firmware);
        }
        if let Some(cdrom) = &self.cdrom {
            command.arg("-cdrom").arg(cdrom);
        }
        if let Some(kernel) = &self.kernel {
            command.arg("-kernel").arg(kernel);
            if !self.append.is_empty() {
                command.args(["-append", &self.append]);
            }
        }
        if let Some(rc) = &self.rc {
            command.args([
                "-fw_cfg",
                &format!("name=opt/anax/rc,file={}", rc.display()),
            ]);
        }
        for (index, (network, mac)) in self.networks.iter().enumerate() {
            let backend = match network {
                Network::Lan(path) => {
                    format!(
                        "stream,id=n{index},server=off,addr.type=unix,addr.path={}",
                        path.display()
                    )
                }
                Network::User => format!("user,id=n{index}"),
                Network::Tap(name) => {
                    format!("tap,id=n{index},ifname={name},script=no,downscript=no")
                }
            };
            command.args(["-netdev", &backend]);
            let device = match self.machine {
                Machine::Microvm => "virtio-net-device".to_owned(),
                Machine::Q35 | Machine::Pc => {
                    "virtio-net-pci,disable-legacy=on,romfile=".to_owned()
                }
            };
            command.args([
                "-device",
                &format!("{device},netdev=n{index},mac={}", mac_text(mac)),
            ]);
        }
        if self.machine == Machine::Microvm && !self.networks.is_empty() {
            command.args(["-global", "virtio-mmio.force-legacy=false"]);
        }
        command.args(&self.extra);
        Ok(command)
    }
}

/// A MAC address as QEMU and people write it.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `file:PATH` and the like of `-serial`, in the words of `-chardev`.
fn chardev(serial: &str) -> String {
    match serial.split_once(':') {
        Some(("file", path)) => format!("file,id=trace,path={path}"),
        Some((kind, rest)) => format!("{kind},id=trace,{rest}"),
        None => format!("{serial},id=trace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_as_qemu_names_them() {
        for machine in Machine::ALL {
            assert_eq!(machine.to_string().parse(), Ok(machine));
        }
        assert!(
            "vax"
                .parse::<Machine>()
                .unwrap_err()
                .contains("q35, pc or microvm")
        );
    }

    #[test]
    fn microvm_gets_its_second_serial_port_as_a_device() {
        assert_eq!(chardev("file:/x/y"), "file,id=trace,path=/x/y");
        assert_eq!(chardev("pipe:/x"), "pipe,id=trace,/x");
    }
}
