//! `vkernel` and `sim`: kernels in processes. The program takes our place (`exec`), with all the words that were given: its
//! options are its own affair.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow};

/// What the program is given.
#[derive(clap::Args)]
pub struct Arguments {
    /// Its own options; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Builds the program and becomes it; returns only when it could not be started.
pub fn run(build: fn() -> Result<PathBuf>, arguments: Arguments) -> Result<ExitCode> {
    let program = build()?;
    let error = Command::new(&program).args(arguments.words).exec();
    Err(anyhow!("cannot start {}: {error}", program.display()))
}
