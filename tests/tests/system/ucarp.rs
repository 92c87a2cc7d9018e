//! One node of ours against Debian's ucarp: whoever is master goes, the other takes over.
//!
//! ucarp wants a real interface, so the LAN here is a Linux bridge in a network namespace that the
//! test makes and removes itself; that takes root. ucarp hears through libpcap in one-second steps,
//! so its side of a failover may be a second late; what is asserted is who is master, not when.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tests::{Turn, boot_as, node, on_both, run, skip};
use tools::host;
use tools::node::{NodeKind, NodeSpec, node_mac};
use tools::qemu::Network;
use tools::running::RunningNode;

on_both![failover_with_ucarp_in_both_directions];

/// Both directions of a failover, in the time of the slower (ucarp: 3 x advbase, and polling).
const PATIENCE: Duration = Duration::from_secs(15);

/// A network namespace with a bridge, a tap on it and an interface for ucarp. Gone when dropped.
struct Namespace(String);

impl Namespace {
    fn make(kind: NodeKind) -> Result<Namespace, String> {
        let name = format!("anax-{}-{kind}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Namespace(name.clone());
        for words in [
            "link set lo up",
            "link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0",
            "link add e0 type veth peer name p0",
            "link set p0 master br0",
            "tuntap add tap0 mode tap",
            "link set tap0 master br0",
            "addr add 192.0.2.3/24 dev e0",
            "link set br0 up",
            "link set p0 up",
            "link set e0 up",
            "link set tap0 up",
        ] {
            let mut arguments = vec!["-n", &name];
            arguments.extend(words.split(' '));
            ip(&arguments)?;
        }
        Ok(namespace)
    }

    /// A command that runs inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn answers(&self, address: &str) -> bool {
        let mut ping = self.command("ping");
        ping.args(["-c", "1", "-W", "1", address])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ping.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// A running ucarp; its scripts note which way it went last.
struct Ucarp {
    process: Child,
    state: std::path::PathBuf,
}

impl Ucarp {
    fn start(namespace: &Namespace, folder: &Path, skew: u8) -> Ucarp {
        let state = folder.join("state");
        fs::write(&state, "BACKUP").unwrap();
        for (name, word, verb) in [("up", "MASTER", "add"), ("down", "BACKUP", "del")] {
            let script = folder.join(name);
            let text = format!(
                "#!/bin/sh\nip addr {verb} $2/32 dev $1\necho {word} > {}\n",
                state.display()
            );
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let log = File::create(folder.join("ucarp.log")).unwrap();
        let ucarp = host::find_program(&["ucarp"]).unwrap();
        let process = namespace
            .command(ucarp.to_str().unwrap())
            .args([
                "-i",
                "e0",
                "-s",
                "192.0.2.3",
                "-v",
                "1",
                "-p",
                "secret",
                "-a",
                "192.0.2.10",
            ])
            .args(["-b", "1", "-k", &skew.to_string(), "-P", "-z", "-n"])
            .arg("-u")
            .arg(folder.join("up"))
            .arg("-d")
            .arg(folder.join("down"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Ucarp { process, state }
    }

    fn is_master(&self) -> bool {
        fs::read_to_string(&self.state).is_ok_and(|text| text.trim() == "MASTER")
    }
}

impl Drop for Ucarp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "{what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_master(node: &mut RunningNode) -> bool {
    run(node, "ifconfig carp0").contains("carp: MASTER")
}

/// Our node with this advskew, inside the namespace.
fn start(kind: NodeKind, namespace: &Namespace, skew: u8) -> RunningNode {
    let spec = NodeSpec {
        networks: vec![(Network::Tap("tap0".to_owned()), node_mac(1))],
        inside: Some(namespace.0.clone()),
        ..node(kind)
    };
    let mut ours = boot_as("a", &spec);
    for line in [
        &format!("ifconfig {} 192.0.2.1/24 up", kind.first_interface()),
        "sysctl net.inet.carp.preempt=1",
        "ifconfig carp0 create",
        &format!("ifconfig carp0 vhid 1 pass secret advbase 1 advskew {skew} 192.0.2.10/24 up"),
    ] {
        run(&mut ours, line);
    }
    ours
}

fn failover_with_ucarp_in_both_directions(kind: NodeKind) {
    let root = fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        return skip("a network namespace with a tap needs root");
    }
    for (program, package) in [
        ("ucarp", "ucarp"),
        ("ip", "iproute2"),
        ("ping", "iputils-ping"),
    ] {
        if let Err(error) = host::need_program(program, package) {
            return skip(&error.to_string());
        }
    }
    let _turn = Turn::take();
    let namespace = match Namespace::make(kind) {
        Ok(namespace) => namespace,
        Err(error) => return skip(&format!("no network namespace here: {error}")),
    };

    // Ours is preferred; it dies without a word, ucarp takes over; ours returns and preempts.
    let folder = tempfile::tempdir().unwrap();
    let mut ours = start(kind, &namespace, 0);
    until("ours is master", || is_master(&mut ours));
    let theirs = Ucarp::start(&namespace, folder.path(), 100);
    std::thread::sleep(Duration::from_secs(5));
    assert!(
        is_master(&mut ours) && !theirs.is_master(),
        "the preferred one keeps the address"
    );
    assert!(namespace.answers("192.0.2.10"));
    drop(ours);
    until("ucarp takes over", || theirs.is_master());
    let mut ours = start(kind, &namespace, 0);
    until("ours preempts", || {
        is_master(&mut ours) && !theirs.is_master()
    });
    drop((ours, theirs));

    // ucarp is preferred; it is killed, ours takes over.
    let folder = tempfile::tempdir().unwrap();
    let theirs = Ucarp::start(&namespace, folder.path(), 0);
    until("ucarp is master", || theirs.is_master());
    let mut ours = start(kind, &namespace, 100);
    std::thread::sleep(Duration::from_secs(5));
    assert!(
        !is_master(&mut ours) && theirs.is_master(),
        "ours respects the preferred one"
    );
    drop(theirs);
    // Killed, ucarp leaves the address on its interface: a power cut would not.
    let _ = ip(&[
        "-n",
        &namespace.0,
        "addr",
        "del",
        "192.0.2.10/32",
        "dev",
        "e0",
    ]);
    until("ours takes over", || is_master(&mut ours));
    until("the address answers", || namespace.answers("192.0.2.10"));
}
