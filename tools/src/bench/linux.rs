//! The peer that everybody knows: Debian's cloud kernel with busybox as its only program.
//!
//! Taken from the packages without installing them (`apt-get download`, no root needed) and kept
//! under out/linux. The archive for the initramfs is written here: it has three entries, and needs
//! no cpio program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::host;

const INIT: &str = "#!/bin/busybox sh\n/bin/busybox printf 'linux# '\nexec /bin/busybox sh\n";

/// The image and its initramfs, from an earlier run or from the archive.
pub fn fetch() -> Result<(PathBuf, PathBuf)> {
    let folder = host::output_directory()?.join("linux");
    fs::create_dir_all(&folder)?;
    let initramfs = folder.join("initramfs");
    if let Some(image) = find(&folder.join("image/boot"), "vmlinuz-")
        && initramfs.is_file()
    {
        return Ok((image, initramfs));
    }
    let name = newest_kernel_package()?;
    unpack(&folder, &name, "image")?;
    unpack(&folder, "busybox-static", "busybox")?;
    let image =
        find(&folder.join("image/boot"), "vmlinuz-").context("the package has no kernel")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| folder.join("busybox").join(path));
    let busybox = busybox
        .iter()
        .find(|path| path.is_file())
        .context("no busybox in its package")?;
    fs::write(&initramfs, archive(&fs::read(busybox)?))?;
    Ok((image, initramfs))
}

/// The package that linux-image-cloud-amd64 stands for.
fn newest_kernel_package() -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .stderr(Stdio::null())
        .output()
        .context("this is not a Debian system")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let rest = line.context("no package linux-image-cloud-amd64; try: apt-get update")?;
    Ok(format!("linux-image-{rest}"))
}

fn unpack(folder: &Path, package: &str, to: &str) -> Result<()> {
    let quiet = |command: &mut Command| -> Result<bool> {
        Ok(command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success())
    };
    if !quiet(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(folder),
    )? {
        bail!("cannot download {package}; try: apt-get update");
    }
    let file = find(folder, &format!("{package}_")).context("nothing was downloaded")?;
    if !quiet(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&file)
            .arg(folder.join(to)),
    )? {
        bail!("cannot unpack {}", file.display());
    }
    fs::remove_file(file)?;
    Ok(())
}

/// The file in `folder` whose name begins with `prefix`.
fn find(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|p| p.is_file()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

/// A cpio archive in the "newc" form (Linux, Documentation/driver-api/early-userspace/buffer-format).
fn archive(busybox: &[u8]) -> Vec<u8> {
    const DIRECTORY: u32 = 0o040_755;
    const DEVICE: u32 = 0o020_600;
    const PROGRAM: u32 = 0o100_755;
    let mut bytes = Vec::new();
    let mut add = |name: &str, mode: u32, device: (u32, u32), content: &[u8]| {
        let fields = [
            bytes.len() as u32 + 1, // a number of its own
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        bytes.extend(b"070701");
        bytes.extend(
            fields
                .iter()
                .flat_map(|field| format!("{field:08X}").into_bytes()),
        );
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    add("dev", DIRECTORY, (0, 0), &[]);
    add("dev/console", DEVICE, (5, 1), &[]);
    add("bin", DIRECTORY, (0, 0), &[]);
    add("bin/busybox", PROGRAM, (0, 0), busybox);
    add("init", PROGRAM, (0, 0), INIT.as_bytes());
    add("TRAILER!!!", 0, (0, 0), &[]);
    bytes
}
