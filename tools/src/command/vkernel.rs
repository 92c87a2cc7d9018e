//! `vkernel`: the kernel as a process, its console on this terminal.
//!
//! The vkernel takes our place (`exec`), with all the words that were given: its options are its own affair.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow};

use crate::kernel;

/// Run the kernel as a process, its console on this terminal; `--help` lists its own options.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Options of the vkernel
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Does it; returns only when the vkernel could not be started.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let vkernel = kernel::build_vkernel()?;
    let error = Command::new(&vkernel).args(arguments.words).exec();
    Err(anyhow!("cannot start {}: {error}", vkernel.display()))
}
