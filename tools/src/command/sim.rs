//! `sim`: clusters of kernels from one seed. The simulator takes our place, with all the words that were given.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow};

use crate::kernel;

/// Run whole clusters of kernels from one seed, in virtual time; `--help` lists its own options.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Options of the simulator
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Does it; returns only when the simulator could not be started.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let sim = kernel::build_sim()?;
    let error = Command::new(&sim).args(arguments.words).exec();
    Err(anyhow!("cannot start {}: {error}", sim.display()))
}
