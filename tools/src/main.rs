//! `anax`: the host program behind run.sh. It reads the command line and hands over.
//!
//! Exit status: 0 done, 1 it failed (stderr says what and how to fix it), 2 a wrong command line,
//! 130 interrupted.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tools::command::{bench, boot, build, carp, iso, lan, process, test, trace};
use tools::host::Interrupted;
use tools::kernel;

/// Boots Anax, connects its nodes and shows what they do.
#[derive(Parser)]
#[command(
    name = "anax",
    bin_name = "./run.sh",
    version,
    disable_help_subcommand = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Boot(boot::Arguments),
    Build(build::Arguments),
    Carp(carp::Arguments),
    Bench(bench::Arguments),
    Iso(iso::Arguments),
    Lan(lan::Arguments),
    /// Run whole clusters of kernels from one seed, in virtual time
    #[command(disable_help_flag = true)]
    Sim(process::Arguments),
    Test(test::Arguments),
    Trace(trace::Arguments),
    /// Run the kernel as a process, its console on this terminal
    #[command(disable_help_flag = true)]
    Vkernel(process::Arguments),
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Boot(arguments) => boot::run(arguments),
        Command::Build(arguments) => build::run(arguments),
        Command::Carp(arguments) => carp::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Iso(arguments) => iso::run(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Lan(arguments) => lan::run(arguments),
        Command::Sim(arguments) => process::run(kernel::build_sim, arguments),
        Command::Trace(arguments) => trace::run(arguments),
        Command::Vkernel(arguments) => process::run(kernel::build_vkernel, arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("anax: {error:#}");
            ExitCode::FAILURE
        }
    }
}
