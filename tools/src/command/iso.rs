//! `iso`: a GRUB image that boots under BIOS and UEFI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::host;
use crate::kernel;

/// Make an image that GRUB boots under BIOS and UEFI.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where it goes
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Words for the kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
}

/// Does it and prints the image's path.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let output = match arguments.output {
        Some(path) => path,
        None => host::output_directory()?.join("anax.iso"),
    };
    make(&kernel::build()?, &output, &arguments.append)?;
    println!("{}", output.display());
    eprintln!(
        "try it: qemu-system-x86_64 -m 256 -smp 4 -nographic -cdrom {}",
        output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes the image of `kernel` at `output`.
pub fn make(kernel: &Path, output: &Path, append: &str) -> Result<()> {
    let maker = host::need_program(
        "grub-mkrescue",
        "grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools",
    )?;
    let tree = host::socket_directory()?;
    let boot = tree.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(kernel, boot.join("anax")).context("cannot copy the kernel")?;
    // The console is serial; GRUB's own words go there too, so that a failure can be read.
    let configuration = format!(
        "serial --unit=0 --speed=115200\nterminal_output serial console\nset timeout=0\n\
         menuentry Anax {{\n\tmultiboot2 /boot/anax {append}\n\tboot\n}}\n"
    );
    fs::write(boot.join("grub/grub.cfg"), configuration)?;
    let result = Command::new(maker)
        .arg("-o")
        .arg(output)
        .arg(tree.path())
        .output()?;
    if !result.status.success() {
        bail!(
            "grub-mkrescue failed:\n{}",
            String::from_utf8_lossy(&result.stderr)
        );
    }
    Ok(())
}
