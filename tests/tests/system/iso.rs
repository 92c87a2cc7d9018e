//! The GRUB image boots under BIOS and UEFI.

use std::path::{Path, PathBuf};

use tests::{Turn, run, skip};
use tools::command::iso;
use tools::host;
use tools::node::NodeKind;
use tools::qemu::Guest;
use tools::running::RunningNode;

const FIRMWARE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/ovmf/OVMF.fd"];
/// UEFI firmware under emulation takes seconds.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

fn boots(extra: Vec<String>, firmware: Option<PathBuf>) {
    if host::find_program(&["grub-mkrescue"]).is_none() {
        return skip("no grub-mkrescue here");
    }
    let _turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("anax.iso");
    iso::make(tests::kernel(NodeKind::VM), &image, "hostname=disc").unwrap();
    let guest = Guest {
        cdrom: Some(image),
        firmware,
        extra,
        ..Guest::default()
    };
    let mut vm = RunningNode::start("disc", guest.command().unwrap(), None).unwrap();
    vm.wait_for_prompt(LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(run(&mut vm, "echo from the disc"), "from the disc");
}

#[test]
fn under_bios() {
    boots(Vec::new(), None);
}

#[test]
fn under_uefi() {
    match FIRMWARE
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_file())
    {
        Some(firmware) => boots(Vec::new(), Some(firmware.to_owned())),
        None => skip("no OVMF firmware here"),
    }
}
