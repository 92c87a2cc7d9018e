//! What this machine offers: the checkout, the accelerator that works, the signal to stop.
//!
//! [`Accelerator::choose`] asks what works, not what exists: a `/dev/kvm` that opens on a machine
//! whose CPU flags lack vmx and svm accepts a VM and then hangs in 64-bit code, so both must hold.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

/// The root of the checkout: the nearest folder above this one that has run.sh, else the place
/// where this program was built.
pub fn checkout() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors()
        .find(|folder| folder.join("run.sh").is_file() && folder.join("executor").is_dir())
        .or_else(|| built.parent())
        .unwrap_or(built)
        .to_path_buf()
}

/// Where cargo leaves what it builds.
pub fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => PathBuf::from(path),
        None => checkout().join("target"),
    }
}

/// Where this project leaves what is not cargo's: images, logs, downloaded peers. Created if absent.
pub fn output_directory() -> Result<PathBuf> {
    let path = checkout().join("out");
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// A short folder for sockets: the path of a UNIX socket must stay below 108 bytes, which a
/// checkout deep in a home directory would break.
pub fn socket_directory() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("anax-")
        .tempdir_in("/tmp")
        .or_else(|_| tempfile::Builder::new().prefix("anax-").tempdir())
        .context("cannot create a temporary folder; check that /tmp is writable")
}

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor runs them.
    Kvm,
    /// QEMU translates them, one host thread per vCPU.
    Tcg,
}

impl Accelerator {
    /// The best that works here.
    pub fn choose() -> Accelerator {
        let opens = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Accelerator::judge(opens, &processor)
    }

    /// The decision itself, apart from the machine it is taken on.
    fn judge(kvm_opens: bool, cpuinfo: &str) -> Accelerator {
        let virtualises = cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .flat_map(str::split_whitespace)
            .any(|flag| flag == "vmx" || flag == "svm");
        if kvm_opens && virtualises {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        }
    }

    /// The value of QEMU's `-accel`.
    pub fn argument(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }
}

/// The first of `names` that is a program on the PATH or among the administrator's programs.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .collect();
    names
        .iter()
        .find_map(|name| folders.iter().map(|f| f.join(name)).find(|p| p.is_file()))
}

/// A program that must be there, or the error that says which package brings it.
pub fn need_program(name: &str, package: &str) -> Result<PathBuf> {
    match find_program(&[name]) {
        Some(path) => Ok(path),
        None => bail!("missing {name}; fix it with (as root): apt-get install -y {package}"),
    }
}

/// `program`, to be run in the network namespace `namespace` if there is one (`ip netns exec` replaces
/// itself by it, so the process is the program's own).
pub fn command_inside(namespace: Option<&str>, program: &Path) -> Result<Command> {
    let Some(namespace) = namespace else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new(need_program("ip", "iproute2")?);
    command.args(["netns", "exec", namespace]).arg(program);
    Ok(command)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C asks this program to stop instead of killing it, so that its VMs, sockets and
/// temporary folders are gone when it ends. A second Ctrl-C ends it at once.
pub fn catch_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .context("cannot catch Ctrl-C")
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The error of a run that Ctrl-C ended; [`crate`]'s binary turns it into exit status 130.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// `Err(Interrupted)` once Ctrl-C was pressed; long waits call this often.
pub fn check_interrupt() -> Result<()> {
    if interrupted() {
        Err(Interrupted.into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_the_device_and_the_flag() {
        let with = "processor : 0\nflags\t\t: fpu svm nx\n";
        let without = "processor : 0\nflags\t\t: fpu nx hypervisor\nbugs : svmish\n";
        assert_eq!(Accelerator::judge(true, with), Accelerator::Kvm);
        assert_eq!(Accelerator::judge(true, without), Accelerator::Tcg);
        assert_eq!(Accelerator::judge(false, with), Accelerator::Tcg);
    }

    #[test]
    fn a_missing_program_names_its_remedy() {
        let error = need_program("no-such-program-at-all", "some-package").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("apt-get install -y some-package")
        );
    }
}
