//! A vkernel that runs, with its console in our hands.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program.
pub fn vkernel() -> &'static str {
    env!("CARGO_BIN_EXE_vkernel")
}

/// A running vkernel; killed when dropped.
pub struct Running {
    child: Child,
    input: Option<File>,
    output: Receiver<Vec<u8>>,
    /// Output that no `expect` has taken yet.
    unread: String,
}

impl Running {
    /// Starts one over pipes.
    pub fn start(words: &[&str]) -> Self {
        Self::spawn(Command::new(vkernel()).args(words))
    }

    /// Starts this command, which becomes one, over pipes.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = OwnedFd::from(child.stdin.take().unwrap());
        let output = OwnedFd::from(child.stdout.take().unwrap());
        Self::attach(child, File::from(input), Some(File::from(output)))
    }

    /// One whose console is at these files; nothing is expected of one without output.
    pub fn attach(child: Child, input: File, output: Option<File>) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let Some(mut output) = output else { return };
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input: Some(input),
            output: receiver,
            unread: String::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for this text, and returns what came before it.
    pub fn expect(&mut self, text: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unread.find(text) {
                let before = self.unread[..at].to_string();
                self.unread.drain(..at + text.len());
                return before;
            }
            let left = limit.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.unread += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in {:?}", self.rest()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without {text:?}; the rest is {:?}", self.rest())
                }
            }
        }
    }

    /// The end of what was not expected.
    fn rest(&self) -> &str {
        let from = self.unread.len().saturating_sub(2000);
        self.unread.get(from..).unwrap_or(&self.unread)
    }

    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) {
        self.send(&format!("{line}\n"));
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends the signal of this name.
    pub fn signal(&self, name: &str) {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = match name {
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "TERM" => Signal::TERM,
            "KILL" => Signal::KILL,
            "SEGV" => Signal::SEGV,
            _ => unreachable!("{name}"),
        };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end, and gives the exit status; None if a signal was the end.
    pub fn ended(&mut self) -> Option<i32> {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < limit, "it does not end; {:?}", self.rest());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often each CPU's thread has gone to sleep or was made to.
    pub fn context_switches(&self) -> Vec<(String, u64)> {
        let tasks = format!("/proc/{}/task", self.pid());
        let mut all = Vec::new();
        for task in std::fs::read_dir(tasks).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name| {
                status
                    .lines()
                    .find_map(|line: &str| line.strip_prefix(name))
            };
            let name = field("Name:\t").unwrap();
            if name.starts_with("cpu") {
                let count = |name| field(name).unwrap().trim().parse::<u64>().unwrap();
                let switches =
                    count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
                all.push((name.to_string(), switches));
            }
        }
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
