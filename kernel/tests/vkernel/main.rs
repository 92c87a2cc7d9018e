//! The vkernel, the real program: started over pipes and on a terminal, talked to, stopped, killed, cut off.

mod lan;
mod running;
mod terminal;

use running::{Running, vkernel};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn it_boots_to_a_prompt_with_one_four_and_sixty_four_cpus_and_powers_off() {
    for cpus in ["1", "4", "64"] {
        let mut kernel = Running::start(&["-n", cpus]);
        kernel.expect("anax# ");
        kernel.say("sysctl kern.ncpu hw.machine");
        kernel.expect(&format!("kern.ncpu: {cpus}\r\n"));
        kernel.expect("hw.machine: vkernel\r\n");
        kernel.say("poweroff");
        assert_eq!(kernel.ended(), Some(0), "{cpus} CPUs");
    }
}

#[test]
fn the_least_memory_is_enough_for_as_many_cpus_as_may_have_it() {
    for (cpus, memory) in [("16", "16M"), ("64", "64M")] {
        let mut kernel = Running::start(&["-n", cpus, "-m", memory, "-e", "panic=poweroff"]);
        kernel.expect("anax# ");
        kernel.say("workload 1");
        kernel.expect(" 0 wrong answers");
        kernel.say("poweroff");
        assert_eq!(kernel.ended(), Some(0), "{cpus} CPUs");
    }
}

#[test]
fn kernel_environment_and_start_up_commands_come_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let rc = folder.path().join("rc");
    fs::write(&rc, "# comment\necho from the file\n").unwrap();
    let mut kernel = Running::start(&[
        "-e",
        "hostname=daisy",
        "-e",
        "rc=echo from 'the line'; sysctl kern.hostname",
        "--rc",
        rc.to_str().unwrap(),
    ]);
    kernel.expect("from the file\r\n");
    kernel.expect("from the line\r\n");
    kernel.expect("kern.hostname: daisy\r\n");
    kernel.expect("daisy# ");
}

#[test]
fn end_of_input_is_not_the_end_of_the_kernel() {
    let mut kernel = Running::start(&[]);
    kernel.expect("anax# ");
    kernel.close_input();
    kernel.signal("INT");
    // ^C at the prompt gives a new one: it lives, and the signal came as a typed byte.
    kernel.expect("anax# ");
    kernel.signal("TERM");
    assert_eq!(kernel.ended(), Some(0));
}

#[test]
fn sigterm_shuts_down_in_order() {
    let mut kernel = Running::start(&["-n", "4"]);
    kernel.expect("anax# ");
    kernel.signal("TERM");
    kernel.expect("asked to power off");
    assert_eq!(kernel.ended(), Some(0));
}

#[test]
fn sigterm_ends_a_kernel_that_stands_still_at_once() {
    let mut kernel = Running::start(&[]);
    kernel.expect("anax# ");
    kernel.signal("QUIT");
    kernel.expect("db> ");
    kernel.signal("TERM");
    assert_eq!(kernel.ended(), Some(143));
}

#[test]
fn sigterm_ends_a_kernel_that_does_not_shut_down() {
    for terms in [1, 2] {
        let mut command = Command::new(vkernel());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all("help\n".repeat(800).as_bytes()).unwrap();
        // Nobody reads: its console ends up in a write that does not return.
        let limit = Instant::now() + running::PATIENCE;
        let waiting = || rustix::io::ioctl_fionread(&output).unwrap();
        let (mut before, mut since) = (waiting(), Instant::now());
        while before < 60_000 || since.elapsed() < Duration::from_millis(500) {
            assert!(Instant::now() < limit, "the pipe does not fill up");
            std::thread::sleep(Duration::from_millis(5));
            if waiting() != before {
                (before, since) = (waiting(), Instant::now());
            }
        }
        let mut kernel = Running::attach(child, File::from(OwnedFd::from(input)), None);
        for _ in 0..terms {
            kernel.signal("TERM");
        }
        assert_eq!(kernel.ended(), Some(143));
        drop(output);
    }
}

#[test]
fn reboot_keeps_pid_and_options() {
    let mut kernel = Running::start(&["-n", "3", "-e", "hostname=daisy"]);
    let process = format!("process {} ", kernel.pid());
    for _ in 0..3 {
        kernel.expect(", 3 CPUs\r\n");
        kernel.expect(&process);
        kernel.expect("daisy# ");
        kernel.say("reboot");
    }
    kernel.expect("daisy# ");
    // Signals work in the second life too.
    kernel.signal("TERM");
    assert_eq!(kernel.ended(), Some(0));
}

#[test]
fn the_quit_character_shows_every_cpu_and_continue_goes_on() {
    let mut kernel = Running::start(&["-n", "4"]);
    kernel.expect("anax# ");
    // Some may still be busy with the start.
    let limit = Instant::now() + running::PATIENCE;
    let mut idle = false;
    while !idle {
        assert!(Instant::now() < limit, "never idle");
        kernel.send("\x1c");
        let shown = kernel.expect("db> ");
        let lines: Vec<_> = shown.lines().filter(|line| !line.is_empty()).collect();
        let cpus = &lines[lines.len() - 4..];
        idle = cpus.iter().enumerate().fold(true, |idle, (id, line)| {
            assert!(line.starts_with(&format!("cpu{id}: ")), "{shown}");
            assert!(line.contains(" queued to run; IPIs: "), "{shown}");
            idle && line.contains(": idle; ")
        });
        kernel.say("continue");
        kernel.say("echo alive");
        kernel.expect("\r\nalive\r\n");
        kernel.expect("anax# ");
    }
}

#[test]
fn ctrl_c_frees_the_cpu_that_spins() {
    let mut kernel = Running::start(&["-n", "2"]);
    kernel.expect("anax# ");
    kernel.say("spin 11");
    kernel.expect("`11` is no time in seconds; it must be a number from 0 to 10");
    kernel.say("spin 10 1");
    kernel.expect("spin 10 1\r\n");
    let begin = Instant::now();
    kernel.send("\x03");
    kernel.expect("anax# ");
    // Which asks every CPU.
    kernel.say("cpus");
    kernel.expect("\r\n  1 ");
    kernel.expect("anax# ");
    assert!(begin.elapsed() < Duration::from_secs(8), "it spins on");
}

#[test]
fn the_debugger_names_what_a_busy_cpu_runs() {
    let mut kernel = Running::start(&["-n", "2", "-e", "trace=on"]);
    kernel.expect("anax# ");
    kernel.say("workload 30");
    kernel.expect("workload 30\r\n");
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        kernel.send("\x1c");
        let shown = kernel.expect("db> ");
        assert!(
            shown.contains("cpu0: ") && shown.contains("cpu1: "),
            "{shown}"
        );
        if shown.contains("(workload") || shown.contains("kernel/src/workload.rs:") {
            break;
        }
        assert!(Instant::now() < limit, "never found it running: {shown}");
        kernel.say("continue");
    }
    kernel.say("trace 5");
    kernel.expect("the last 10 trace records:\r\n");
    kernel.say("nonsense");
    kernel.expect("not a command: nonsense");
    kernel.say("reboot");
    kernel.expect("anax# ");
}

#[test]
fn a_panic_says_where_and_what_and_ends_as_told() {
    let arguments = |action| ["-n", "2", "-e", "trace=on", "-e", action];
    let mut kernel = Running::start(&arguments("panic=poweroff"));
    kernel.expect("anax# ");
    kernel.say("panic yes");
    kernel.expect("panic on cpu0 in thread ");
    kernel.expect("(console, spawned at kernel/src/start.rs:");
    kernel.expect("kernel/src/commands/machine.rs:");
    kernel.expect(" trace records:\r\n");
    kernel.expect("powering off");
    assert_eq!(kernel.ended(), Some(3));

    let mut kernel = Running::start(&arguments("panic=halt"));
    kernel.expect("anax# ");
    kernel.say("panic yes");
    kernel.expect("db> ");
    kernel.say("cpus");
    kernel.expect("cpu0: in thread ");
    kernel.expect("(console, spawned at ");
    kernel.expect("\r\ncpu1: ");
    kernel.say("continue");
    kernel.expect("cannot go on");
    kernel.say("quit");
    assert_eq!(kernel.ended(), Some(3));

    let mut kernel = Running::start(&["-n", "2"]);
    kernel.expect("anax# ");
    kernel.say("panic yes");
    kernel.expect("rebooting");
    kernel.expect("Anax ");
    kernel.expect("anax# ");
}

#[test]
fn a_panic_while_sixty_four_cpus_start_stops_them_all() {
    let words = ["-n", "64", "-e", "panic=poweroff", "-e", "rc=panic yes"];
    for _ in 0..10 {
        let mut kernel = Running::start(&words);
        let text = kernel.expect("powering off");
        assert!(text.contains("panic on cpu0 in thread "), "{text}");
        assert!(!text.contains("does not stop"), "{text}");
        assert_eq!(kernel.ended(), Some(3));
    }
}

#[test]
fn memory_that_is_used_up_ends_in_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let rc = folder.path().join("rc");
    // A million commands do not fit in 16 MiB.
    fs::write(&rc, "true\n".repeat(1 << 20)).unwrap();
    let rc = rc.to_str().unwrap();
    let words = ["-m", "16M", "-e", "panic=poweroff", "--rc", rc];
    // The host's library has something to say as well, on stderr.
    let mut command = Command::new(vkernel());
    let mut kernel = Running::spawn(command.args(words).stderr(Stdio::null()));
    kernel.expect("panic on cpu0 in thread ");
    kernel.expect("SIGABRT: out of memory");
    kernel.expect("powering off");
    assert_eq!(kernel.ended(), Some(3));
}

#[test]
fn a_pid_file_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let words = ["-p", path.to_str().unwrap()];
    let mut first = Running::start(&words);
    first.expect("anax# ");
    let pid = first.pid().to_string();
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), pid);
    let second = refused(&words);
    assert_eq!(second.0, Some(1));
    assert!(
        second
            .1
            .contains(&format!("held by the kernel with pid {pid}")),
        "{second:?}"
    );
    // A reboot keeps it, a SIGKILL frees it.
    first.say("reboot");
    first.expect("Anax ");
    first.expect("anax# ");
    assert_eq!(refused(&words).0, Some(1));
    first.signal("KILL");
    assert_eq!(first.ended(), None);
    Running::start(&words).expect("anax# ");
}

#[test]
fn what_cannot_be_done_is_refused_with_a_remedy() {
    let (code, text) = refused(&["-I", "/nonexistent/a.sock"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("/nonexistent/a.sock") && text.contains("./run.sh lan DIRECTORY a b"),
        "{text}"
    );
    let (code, text) = refused(&["--rc", "/nonexistent"]);
    assert!(
        code == Some(1) && text.starts_with("vkernel: /nonexistent: "),
        "{text}"
    );
    let (code, text) = refused(&["-n", "64", "-m", "63M"]);
    assert!(code == Some(1) && text.contains("by -m"), "{text}");
    let wrong: &[&[&str]] = &[
        &["-n", "0"],
        &["-n", "65"],
        &["-m", "15M"],
        &["-m", "x"],
        &["-l", "x"],
        &["-e", "=x"],
        &["-I", "x=02:00"],
        &["x"],
    ];
    for words in wrong {
        assert_eq!(refused(words).0, Some(2), "{words:?}");
    }
}

#[test]
fn idle_cpus_are_not_woken() {
    let mut kernel = Running::start(&["-n", "4"]);
    kernel.expect("anax# ");
    // Quiet at last: the start's threads are through.
    let mut before = kernel.context_switches();
    let limit = Instant::now() + Duration::from_secs(20);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(50));
        let now = kernel.context_switches();
        assert_eq!(now.len(), 4, "{now:?}");
        if now != before {
            assert!(Instant::now() < limit, "still waking: {before:?}, {now:?}");
            (before, since) = (now, Instant::now());
        }
    }
}

#[test]
fn the_trace_goes_to_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let mut kernel = Running::start(&["--trace", path.to_str().unwrap(), "-e", "trace=on"]);
    kernel.expect("anax# ");
    kernel.say("trace stream on");
    kernel.expect("anax# ");
    let limit = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&path).unwrap().len() < 1000 {
        assert!(Instant::now() < limit, "nothing in the file");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The exit status and what was said on stderr.
fn refused(words: &[&str]) -> (Option<i32>, String) {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(vkernel());
    command.args(words).stderr(said.reopen().unwrap());
    let code = Running::spawn(&mut command).ended();
    (code, fs::read_to_string(said.path()).unwrap())
}
