//! `boot`: the kernel in QEMU with its console on this terminal.
//!
//! QEMU takes our place (`exec`): the terminal, its signals and the exit status are then QEMU's, as
//! somebody who knows `qemu -nographic` expects, and there is no process left to clean up.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::host::Accelerator;
use crate::kernel;
use crate::node::node_mac;
use crate::qemu::{Guest, Machine, Network};

/// Boot the kernel in QEMU, its console on this terminal (Ctrl-A X leaves).
#[derive(clap::Args)]
pub struct Arguments {
    /// QEMU's machine: q35, pc or microvm
    #[arg(long, default_value = "q35")]
    machine: Machine,
    /// How many vCPUs
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// Memory in MiB
    #[arg(short, long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=65536))]
    memory: u32,
    /// A network interface: `user` for QEMU's own network, or the socket of a LAN (see `lan`)
    #[arg(long, value_name = "user|SOCKET")]
    net: Option<String>,
    /// The last byte of the interface's MAC address, to tell two nodes apart
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    net_number: u8,
    /// A file of console commands to run at boot
    #[arg(long, value_name = "FILE")]
    rc: Option<PathBuf>,
    /// Words for the kernel's command line, such as `hostname=a trace=on`
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Write the binary trace (second serial port) to this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the QEMU command line instead of running it
    #[arg(long)]
    dry_run: bool,
    /// Further arguments for QEMU, after `--`
    #[arg(last = true)]
    qemu: Vec<String>,
}

/// Does it; returns only when QEMU could not be started.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(rc) = &arguments.rc
        && !rc.is_file()
    {
        bail!("no such rc file: {}", rc.display());
    }
    if arguments.net.is_some() && arguments.machine == Machine::Microvm {
        bail!("microvm's network card is virtio-mmio, which has no driver yet; use q35 or pc");
    }
    let network = arguments.net.as_deref().map(|net| match net {
        "user" => Network::User,
        socket => Network::Lan(PathBuf::from(socket)),
    });
    if let Some(Network::Lan(socket)) = &network
        && !socket.exists()
    {
        bail!(
            "no LAN at {}; start one with: ./run.sh lan DIRECTORY a b",
            socket.display()
        );
    }
    let guest = Guest {
        kernel: Some(kernel::build()?),
        machine: arguments.machine,
        cpus: arguments.cpus,
        memory_mib: arguments.memory,
        append: arguments.append,
        rc: arguments.rc,
        networks: network
            .map(|net| (net, node_mac(arguments.net_number)))
            .into_iter()
            .collect(),
        serial: "mon:stdio".to_owned(),
        trace_serial: arguments
            .trace
            .map(|path| format!("file:{}", path.display())),
        extra: arguments.qemu,
        ..Guest::default()
    };
    let mut command = guest.command()?;
    if arguments.dry_run {
        println!("{command:?}");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "anax: {} vCPUs on {} ({}); Ctrl-A X leaves",
        arguments.cpus,
        arguments.machine,
        Accelerator::choose().argument()
    );
    Err(command.exec()).context("cannot start QEMU")
}
