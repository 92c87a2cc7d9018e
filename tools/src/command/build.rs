//! `build`: brings the kernel up to date and prints where it is.

use std::process::ExitCode;

use anyhow::Result;

use crate::kernel;

/// Build the kernel and print its path.
#[derive(clap::Args)]
pub struct Arguments {}

/// Does it.
pub fn run(_: Arguments) -> Result<ExitCode> {
    println!("{}", kernel::build()?.display());
    Ok(ExitCode::SUCCESS)
}
