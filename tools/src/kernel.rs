//! Builds the kernel: for x86_64-unknown-none, and as a process of this host.
//!
//! Which cargo and which standard library is decided by scripts/setup.sh alone and arrives in the
//! environment; without it (a plain `cargo test`) the cargo that runs us builds with the target as
//! rustup ships it. What boots is what cargo has linked with the names of its functions put in ([`names`]).

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::host;

pub mod names;

/// The kernel's target triple.
pub const TARGET: &str = "x86_64-unknown-none";

/// Where cargo leaves the kernel, without names.
pub fn linked() -> PathBuf {
    host::target_directory().join(TARGET).join("kernel/anax")
}

/// Brings the kernel up to date and says where it is. A kernel named by `ANAX_KERNEL` is taken as
/// it is.
pub fn build() -> Result<PathBuf> {
    if let Some(named) = env::var_os("ANAX_KERNEL") {
        return build_unless_named("ANAX_KERNEL", PathBuf::from(named), command);
    }
    let linked = build_unless_named("ANAX_KERNEL", linked(), command)?;
    // A file of its own: cargo's is cargo's, and may be in use by somebody who builds at the same time.
    let named = linked.with_file_name("anax-named");
    names::add(&linked, &named)?;
    Ok(named)
}

/// Brings the kernel as a process up to date and says where it is. One named by `ANAX_VKERNEL` is
/// taken as it is.
pub fn build_vkernel() -> Result<PathBuf> {
    let built = host::target_directory().join("process/vkernel");
    let path = env::var_os("ANAX_VKERNEL").map_or(built, PathBuf::from);
    build_unless_named("ANAX_VKERNEL", path, || {
        process_command(&["-p", "kernel", "--features", "process", "--bin", "vkernel"])
    })
}

/// Brings the simulator up to date and says where it is.
pub fn build_sim() -> Result<PathBuf> {
    let path = host::target_directory().join("process/sim");
    build_unless_named("ANAX_SIM", path, || process_command(&["-p", "sim"]))
}

fn build_unless_named(
    variable: &str,
    kernel: PathBuf,
    command: impl FnOnce() -> Command,
) -> Result<PathBuf> {
    if env::var_os(variable).is_some() {
        if !kernel.is_file() {
            bail!("{variable} names {}, which is not a file", kernel.display());
        }
        return Ok(kernel);
    }
    if !kernel.is_file() {
        eprintln!("setup: building the kernel (a minute or two, the first time)");
    }
    let status = command()
        .status()
        .context("cannot run cargo; start this by ./run.sh")?;
    if !status.success() {
        bail!("the kernel does not build (see above)");
    }
    Ok(kernel)
}

/// The cargo command that builds a program which holds kernels, for the host.
fn process_command(what: &[&str]) -> Command {
    let mut command = Command::new(env::var("ANAX_CARGO").unwrap_or("cargo".to_owned()));
    command.current_dir(host::checkout()).stdin(Stdio::null());
    command.args(["build", "--quiet", "--locked", "--profile", "process"]);
    command.args(what);
    command
}

/// The cargo command that builds the kernel.
fn command() -> Command {
    let mut command = cargo("build");
    command.args(["--profile", "kernel", "--bin", "anax"]);
    command
}

/// `cargo word` for the kernel's own crate on its target, with the standard library that
/// scripts/setup.sh chose.
pub fn cargo(word: &str) -> Command {
    let variable = |name: &str, otherwise: &str| env::var(name).unwrap_or(otherwise.to_owned());
    let mut command = Command::new(variable("ANAX_KERNEL_CARGO", "cargo"));
    command.current_dir(host::checkout()).stdin(Stdio::null());
    command.args([word, "--quiet", "--locked", "--target", TARGET]);
    command.args(["-p", "kernel", "--features", "pc64"]);
    if let Ok(rustc) = env::var("ANAX_KERNEL_RUSTC") {
        command.env("RUSTC", rustc);
    }
    // What an outer `cargo test` or `cargo run` put there is meant for the host.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    if variable("ANAX_KERNEL_STD", "shipped") == "build" {
        command.args(["-Zbuild-std=core,alloc,compiler_builtins"]);
        command.args(["-Zbuild-std-features=compiler-builtins-mem"]);
        command.env("RUSTC_BOOTSTRAP", "1");
        // Debian's rustc has no rust-lld beside it.
        command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld");
    }
    command
}
