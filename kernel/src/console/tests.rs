//! The console from outside: a kernel on the hosted platform, a fake machine with a keyboard and a
//! screen, and what a person would see.

use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;
use std::{format, string::String, vec::Vec};

use executor::Event;
use executor::hosted::{Hosted, Options};

use crate::platform::Machine;

/// How long a test waits for the screen before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The screen is no memory of the node's.
#[cfg(feature = "process")]
use crate::platform::arena::abroad as outside;
#[cfg(not(feature = "process"))]
fn outside<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[derive(Default)]
struct State {
    typed: Vec<u8>,
    screen: Vec<u8>,
    trace: Vec<u8>,
    ended: Option<&'static str>,
}

struct FakeMachine {
    state: Mutex<State>,
    changed: Condvar,
    event: Event,
    command_line: String,
    rc: Option<Vec<u8>>,
}

impl FakeMachine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn end(&self, how: &'static str) -> ! {
        self.state().ended = Some(how);
        self.changed.notify_all();
        // The CPU that ended the machine never comes back; the test leaves the node behind.
        loop {
            std::thread::park();
        }
    }
}

impl Machine for FakeMachine {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn power_off(&self) -> ! {
        self.end("power off")
    }

    fn reboot(&self) -> ! {
        self.end("reboot")
    }

    fn write_console(&self, bytes: &[u8]) {
        outside(|| self.state().screen.extend_from_slice(bytes));
        self.changed.notify_all();
    }

    fn read_console(&self, buffer: &mut [u8]) -> usize {
        let typed = &mut self.state().typed;
        let length = typed.len().min(buffer.len());
        buffer[..length].copy_from_slice(&typed[..length]);
        typed.drain(..length);
        length
    }

    fn console_event(&self) -> &Event {
        &self.event
    }

    fn write_trace(&self, bytes: &[u8]) -> usize {
        // A channel that is often nearly full.
        let taken = bytes.len().min(100);
        outside(|| self.state().trace.extend_from_slice(&bytes[..taken]));
        taken
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn rc_text(&self) -> Option<&[u8]> {
        self.rc.as_deref()
    }

    fn describe(&self, out: &mut dyn core::fmt::Write) {
        let _ = out.write_str("memory: none\n");
    }
}

/// A running kernel and the person in front of it.
struct Person {
    machine: Arc<FakeMachine>,
    hosted: Option<Hosted>,
    /// What of the screen was looked at.
    seen: usize,
    prompt: String,
}

impl Person {
    fn boots(cpus: usize, command_line: &str, rc: Option<&str>) -> Self {
        Self::boots_on(cpus, command_line, rc, |_| {})
    }

    /// `prepare` sees the node before the kernel starts.
    fn boots_on(
        cpus: usize,
        command_line: &str,
        rc: Option<&str>,
        prepare: impl FnOnce(&executor::Node),
    ) -> Self {
        let machine = Arc::new(FakeMachine {
            state: Mutex::default(),
            changed: Condvar::new(),
            event: Event::new(),
            command_line: command_line.into(),
            rc: rc.map(|text| text.as_bytes().to_vec()),
        });
        let hosted = Hosted::start(Options {
            cpus,
            ..Options::default()
        });
        prepare(hosted.node());
        let (on_cpu0, node) = (machine.clone(), hosted.node().clone());
        hosted.block_on(move || async move { crate::start::start(on_cpu0, node) });
        let name = command_line.strip_prefix("hostname=").unwrap_or("anax");
        let prompt = format!("{name}# ");
        Self {
            machine,
            hosted: Some(hosted),
            seen: 0,
            prompt,
        }
    }

    fn types(&self, text: &str) {
        self.machine
            .state()
            .typed
            .extend_from_slice(text.as_bytes());
        self.machine.event.signal();
    }

    /// Waits until the screen shows `wanted` behind what was seen before, and returns all up to it.
    fn sees(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.machine.state();
        loop {
            let new = String::from_utf8_lossy(&state.screen[self.seen..]).into_owned();
            if let Some(at) = new.find(wanted) {
                self.seen += at + wanted.len();
                return new[..at].into();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never saw {wanted:?} in {new:?}");
            state = self.machine.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Types a line and returns what it printed, without the echo.
    fn runs(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.sees("\r\n");
        self.sees_prompt()
    }

    fn sees_prompt(&mut self) -> String {
        let prompt = self.prompt.clone();
        self.sees(&prompt)
    }

    fn waits_for_end(mut self, how: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.machine.state();
        while state.ended != Some(how) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the machine did not end by {how}");
            state = self.machine.changed.wait_timeout(state, left).unwrap().0;
        }
        drop(state);
        // CPU 0 is parked for ever inside the machine, so the node cannot be joined.
        core::mem::forget(self.hosted.take());
    }
}

#[test]
fn banner_then_prompt_with_the_host_name() {
    let mut person = Person::boots(2, "hostname=alpha", None);
    assert!(
        person
            .sees("memory: none")
            .contains("Anax 0.1.0 on fake, 2 CPUs")
    );
    person.sees_prompt();
    assert_eq!(
        person.runs("echo hello  'big  world'"),
        "hello big  world\r\n"
    );
    assert_eq!(person.runs("true"), "");
    assert_eq!(person.runs(""), "");
}

#[test]
fn a_quiet_boot_shows_the_prompt_alone_and_dmesg_the_rest() {
    let mut person = Person::boots(1, "quiet", None);
    assert_eq!(person.sees_prompt(), "");
    assert!(person.runs("dmesg").contains("cpu0: Anax"));
}

#[test]
fn rc_runs_before_the_prompt_and_names_its_bad_lines() {
    let rc = "# start\necho one\nfrob x\necho 'open\nifconfg\necho two\n";
    let mut person = Person::boots(1, "rc=\"echo three; sleep x\"", Some(rc));
    let boot = person.sees_prompt();
    let at = |text: &str| {
        boot.find(text)
            .unwrap_or_else(|| panic!("no {text:?} in {boot}"))
    };
    let order = [
        at("one\r\n"),
        at("rc:3: frob: no such command"),
        at("rc:4: quote ' is never closed"),
        at("rc:5: ifconfg: no such command"),
        at("two\r\n"),
        at("three\r\n"),
        at("rc:2: sleep: `x` is no time"),
    ];
    assert!(order.is_sorted(), "{boot}");
}

#[test]
fn an_unknown_command_is_answered_with_the_nearest_known_one() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    assert_eq!(
        person.runs("pss"),
        "pss: no such command; did you mean `ps`?\r\n"
    );
    let odd = person.runs("xyzzy; echo on");
    assert_eq!(odd, "xyzzy: no such command; `help` lists them\r\non\r\n");
}

#[test]
fn ctrl_c_stops_a_running_command_and_what_was_typed_for_it_is_gone() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    let began = Instant::now();
    person.types("sleep 1000\r");
    person.sees("sleep 1000\r\n");
    person.types("garbage\x03echo ok\r");
    person.sees("^C\r\n");
    person.sees("echo ok\r\n");
    person.sees("ok\r\n");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn typing_ahead_waits_for_the_prompt() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    person.types("sleep 0.05\recho first\recho second\r");
    person.sees("echo first\r\nfirst\r\n");
    person.sees("echo second\r\nsecond\r\n");
}

#[test]
fn a_log_line_of_another_cpu_leaves_the_edited_line_whole() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    person.types("echo unbro");
    person.sees("echo unbro");
    let node = person.hosted.as_ref().unwrap().node().clone();
    node.spawn_on(executor::CpuId(1), "noise", || async {
        log::info!("noise from afar")
    })
    .detach();
    let erased = person.sees("cpu1: noise from afar\r\n");
    assert!(erased.contains("\r\x1b[K["), "{erased:?}");
    person.sees("anax# echo unbro");
    person.types("ken\r");
    assert_eq!(person.sees("unbroken\r\n"), "ken\r\n");
}

#[test]
fn tab_completes_commands_and_their_words() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    person.types("hel\tupt\t\r");
    person.sees("help uptime \r\n");
    person.sees("time since boot");
    person.sees_prompt();
    person.types("true; sysc\tkern.nc\t\r");
    person.sees("true; sysctl kern.ncpu \r\n");
    person.sees("kern.ncpu: 1\r\n");
}

#[test]
fn ps_shows_threads_of_every_cpu() {
    let mut person = Person::boots(3, "", None);
    person.sees_prompt();
    // From CPU 0, where the console is: its messages to a CPU arrive in the order of sending.
    person.hosted.as_ref().unwrap().block_on(|| async {
        for cpu in [1, 2].map(executor::CpuId) {
            executor::spawn_on(cpu, "sleeper", || executor::sleep(PATIENCE)).detach();
        }
    });
    let list = person.runs("ps");
    for wanted in [
        "console ",
        "src/console/tests.rs:",
        "sleeper ",
        "src/start.rs:",
    ] {
        assert!(list.contains(wanted), "{wanted}: {list}");
    }
    assert_eq!(list.matches("sleeper").count(), 2, "{list}");
    assert_eq!(person.runs("ps 1").matches("sleeper").count(), 1);
    assert_eq!(person.runs("ps 7"), "ps: no CPU 7; `cpus` lists them\r\n");
}

/// The most that a thread may keep between two polls, in bytes: a large future is copied when it is spawned, and a
/// thread that has one is probably several.
const LARGEST_FUTURE: u64 = 8192;

#[test]
fn the_ten_largest_futures_are_small_enough() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    let list = person.runs("ps -s");
    let threads: Vec<(u64, String)> = list
        .lines()
        .skip(1)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[8].parse().expect("bytes"), words[9..].join(" "))
        })
        .collect();
    assert!(threads.len() >= 10, "{list}");
    for (bytes, thread) in threads.iter().take(10) {
        std::println!("{bytes:>6} {thread}");
        assert!(*bytes <= LARGEST_FUTURE, "{bytes} bytes: {thread}");
    }
    assert!(threads.is_sorted_by_key(|(bytes, _)| std::cmp::Reverse(*bytes)));
    assert!(threads[0].0 >= 64, "a kernel has larger futures: {list}");
}

#[test]
fn top_shows_who_used_the_cpus_meanwhile() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    person.hosted.as_ref().unwrap().block_on(|| async {
        let spin = || async {
            loop {
                executor::yield_now().await;
            }
        };
        executor::Builder::new("spinner")
            .priority(executor::Priority::IDLE)
            .spawn_on(executor::CpuId(1), spin)
            .detach();
    });
    let shown = person.runs("top 0.1 2");
    assert_eq!(shown.matches("idle: cpu0 ").count(), 2, "{shown}");
    assert_eq!(
        shown.matches(" busy %").count() + shown.matches("busy %").count(),
        4
    );
    let first = shown.lines().find(|line| line.contains("spinner"));
    let first = first.expect("the spinner is listed");
    let busy = first.split_whitespace().next().expect("a share");
    assert!(busy.parse::<f64>().expect("a number") > 10.0, "{shown}");
    assert!(person.runs("top 1 0").starts_with("top: "));
}

#[test]
fn counters_are_shown() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    assert_eq!(person.runs("cpus").lines().count(), 3);
    assert!(person.runs("stat").contains(" ipi_sent\r\n"));
    assert!(person.runs("stat cpu 1").contains(" halts\r\n"));
    assert!(person.runs("uptime").ends_with(" s, 2 CPUs\r\n"));
    assert!(
        person
            .runs("sysctl lwkt.ipi_sent")
            .starts_with("lwkt.ipi_sent: ")
    );
    assert_eq!(
        person.runs("sysctl lwkt.watchdog_ms=7"),
        "lwkt.watchdog_ms: 500 -> 7\r\n"
    );
    assert!(
        person
            .runs("sysctl kern.ncpu=3")
            .contains("can only be read")
    );
}

#[test]
fn output_longer_than_a_poll_arrives_whole() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    let list = person.runs("help; sysctl; help; sysctl");
    assert!(list.len() > 4 * super::terminal::BYTES_PER_POLL);
    for command in crate::commands::all() {
        let start = format!("\n{:<10} {}\r\n", command.name, command.summary);
        assert!(format!("\n{list}").contains(&start), "{start}");
    }
}

#[test]
fn every_command_has_help_and_refuses_nonsense() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    for command in crate::commands::all() {
        let help = person.runs(&format!("help {}", command.name));
        assert!(
            help.contains(command.summary) && help.lines().count() >= 2,
            "{help}"
        );
        if !["echo", "true", "sysctl"].contains(&command.name) {
            let refused = person.runs(&format!("{} --nonsense 1 2 3", command.name));
            assert!(
                refused.starts_with(&format!("{}: ", command.name)),
                "{refused}"
            );
        }
    }
}

#[test]
fn trace_records_are_dumped_as_text_and_streamed_as_frames() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    assert!(person.runs("trace dump").contains("nothing is recorded"));
    person.runs("trace stream on; trace on; sleep 0.1; trace off; trace stream off");
    let dump = person.runs("trace dump 20");
    assert_eq!(dump.lines().count(), 20, "{dump}");
    assert!(
        person.runs("trace dump 4096").contains(" console"),
        "names are shown"
    );
    let stat = person.runs("trace stat");
    assert!(
        stat.contains("classes  none") && stat.contains("stream   off"),
        "{stat}"
    );
    let trace = person.machine.state().trace.clone();
    let frames: Vec<&[u8]> = trace
        .split(|&byte| byte == 0)
        .filter(|f| !f.is_empty())
        .collect();
    // COBS of a frame without zeros in its first bytes begins with the distance to the first zero;
    // the kind is the byte behind it.
    assert_eq!(frames.first().map(|frame| frame[1]), Some(1), "HELLO first");
    assert_eq!(frames.last().map(|frame| frame[1]), Some(5), "END last");
    assert!(
        frames.iter().any(|frame| frame[1] == 2),
        "records between them"
    );
}

#[test]
fn the_loopback_interface_is_there_and_answers() {
    let mut person = Person::boots(2, "", None);
    person.sees_prompt();
    let all = person.runs("ifconfig");
    assert!(all.contains("lo0: flags=") && all.contains("\tinet 127.0.0.1 netmask 0xff000000"));
    assert_eq!(person.runs("ifconfig -l"), "lo0\r\n");
    let ping = person.runs("ping -c 2 -i 0.01 127.0.0.1");
    assert!(
        ping.contains("64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time="),
        "{ping}"
    );
    assert!(
        ping.contains("2 packets transmitted, 2 packets received, 0.0% packet loss"),
        "{ping}"
    );
    let none = person.runs("ping -c 1 -W 0.01 192.0.2.77");
    assert!(
        none.contains("100.0% packet loss") && none.contains("ping: no answer"),
        "{none}"
    );
    assert!(person.runs("netstat -s").contains("carp:"));
    assert!(person.runs("netstat -i").contains("lo0 "));
    assert!(person.runs("netstat -s -p ipx").contains("there are "));
    assert!(person.runs("netstat -r").contains("127.0.0.0/8"));
    assert!(
        person
            .runs("route add default 192.0.2.1")
            .starts_with("route: gateway is not")
    );
    assert!(
        person
            .runs("arp 192.0.2.1")
            .starts_with("arp: 192.0.2.1 is not")
    );
    let wrong = person.runs("ifconfig lo0 vhid 1");
    assert!(wrong.contains("only carp interfaces"), "{wrong}");
}

#[test]
fn ping_says_what_it_counted_when_it_is_stopped() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    person.types("ping -i 0.01 127.0.0.1\r");
    person.sees("icmp_seq=2");
    person.types("\x03");
    person.sees("^C\r\n");
    person.sees("packets received, 0.0% packet loss\r\n");
    person.sees_prompt();
}

#[test]
fn a_carp_interface_is_made_shown_and_destroyed() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    assert_eq!(person.runs("ifconfig carp0 create"), "");
    assert_eq!(
        person.runs("ifconfig carp0 vhid 1 pass x advskew 100 192.0.2.10/24 up"),
        ""
    );
    let shown = person.runs("ifconfig carp0");
    assert!(
        shown.contains("\tcarp: INIT vhid 1 advbase 1 advskew 100\r\n"),
        "{shown}"
    );
    assert!(
        person
            .runs("ifconfig carp0 vhaddr")
            .contains("192.0.2.10/24 inactive")
    );
    let set = person.runs("sysctl net.inet.carp.preempt=1");
    assert_eq!(set, "net.inet.carp.preempt: 0 -> 1\r\n");
    assert_eq!(person.runs("carp"), "not demoted\r\ncarp0: INIT\r\n");
    assert_eq!(person.runs("carp demote upkeep 100"), "");
    assert_eq!(
        person.runs("carp"),
        "demoted by 100 (upkeep)\r\ncarp0: INIT\r\n"
    );
    let own = person.runs("carp demote 'send errors' 1");
    assert!(own.contains("choose another reason"), "{own}");
    assert_eq!(person.runs("ifconfig carp0 destroy"), "");
    assert!(
        person
            .runs("ifconfig carp0")
            .contains("`ifconfig carp0 create` makes it")
    );
}

#[test]
fn poweroff_and_reboot_reach_the_machine() {
    for (command, how) in [
        ("poweroff", "power off"),
        ("halt", "power off"),
        ("reboot", "reboot"),
    ] {
        let mut person = Person::boots(1, "", None);
        person.sees_prompt();
        person.types(&format!("{command}\r"));
        person.waits_for_end(how);
    }
}

#[test]
fn panic_wants_to_be_asked_twice() {
    let mut person = Person::boots(1, "", None);
    person.sees_prompt();
    assert!(person.runs("panic").contains("panic yes"));
}

#[cfg(all(feature = "process", debug_assertions))]
#[test]
fn a_line_that_finds_no_memory_is_refused_or_loses_output_and_the_next_runs() {
    let (_turn, arena) = crate::platform::arena::test_arena(false);
    let mut person = Person::boots_on(1, "quiet", None, |node| {
        assert!(node.set_zones(arena.zones()));
    });
    person.sees_prompt();
    // Longer than any output before, which grows in the room of what was.
    let long = "x".repeat(900);
    let mut ways = Vec::new();
    for nth in 1.. {
        let set = move |nth| {
            move || async move {
                let heap = executor::current().heap();
                let left = heap.fails_after();
                heap.fail_after(nth);
                left
            }
        };
        let hosted = person.hosted.as_ref().unwrap();
        hosted.block_on(set(nth));
        let said = person.runs(&format!("echo one; echo {long}"));
        let left = person.hosted.as_ref().unwrap().block_on(set(0));
        assert_eq!(person.runs("echo three"), "three\r\n", "request {nth}");
        if left != 0 {
            assert_eq!(said, format!("one\r\n{long}\r\n"));
            break;
        }
        ways.push(said);
    }
    assert_eq!(ways[0], "no memory to run a command\r\n");
    let lost = "(output was lost: no memory)\r\n";
    assert!(ways[1..].iter().all(|said| said.contains(lost)), "{ways:?}");
    assert!(ways.len() >= 2, "{ways:?}");
    let failures = person
        .hosted
        .as_ref()
        .unwrap()
        .node()
        .cpu(executor::CpuId(0));
    assert_eq!(failures.heap().stats().failures, ways.len() as u64);
    drop(person);
    // SAFETY: the node is gone, and what it had allocated with it.
    unsafe { arena.release() };
}
