//! Nodes without a kernel, for testing the demonstration itself.
//!
//! A fake elects its master as CARP does in outline (the smaller skew wins, a silent master is
//! replaced), with frames of its own kind through the real switch, and answers ARP and ICMP with the
//! virtual MAC. A test scripts how long a failover takes by the skews.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
};

use super::{Node, State};
use crate::lan::{Lan, LocalPort, Port};
use crate::running::ConsoleLine;

const VIRTUAL_MAC: EthernetAddress = EthernetAddress([0, 0, 0x5e, 0, 1, 1]);
/// IEEE 802: for local experiments.
const ADVERT: EthernetProtocol = EthernetProtocol::Unknown(0x88b5);
const BOW_OUT: u8 = 255;
const ADVERT_INTERVAL: Duration = Duration::from_millis(5);

/// What the thread and its handle share.
struct Shared {
    running: AtomicBool,
    state: AtomicU8,
    down: AtomicBool,
    stop: AtomicBool,
}

/// A scripted node.
pub struct Fake {
    name: String,
    port: Port,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's side.
struct Brain {
    name: String,
    port: LocalPort,
    skew: u8,
    master_down: Duration,
    address: Ipv4Addr,
    shared: Arc<Shared>,
    lines: Sender<ConsoleLine>,
    state: State,
    last_advert: Instant,
}

impl Fake {
    /// A node that waits `master_down` for a silent master; the smaller `skew` is preferred.
    pub fn new(
        lan: &Lan,
        name: &str,
        skew: u8,
        master_down: Duration,
        address: Ipv4Addr,
        lines: Sender<ConsoleLine>,
    ) -> Fake {
        let port = lan.attach(name).unwrap();
        let number = port.port();
        let shared = Arc::new(Shared {
            running: AtomicBool::new(false),
            state: AtomicU8::new(0),
            down: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut brain = Brain {
            name: name.to_owned(),
            port,
            skew,
            master_down,
            address,
            shared: shared.clone(),
            lines,
            state: State::Off,
            last_advert: Instant::now(),
        };
        let thread = thread::spawn(move || brain.run());
        Fake {
            name: name.to_owned(),
            port: number,
            shared,
            thread: Some(thread),
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Node for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn port(&self) -> Port {
        self.port
    }

    fn start(&mut self) -> Result<()> {
        self.shared.running.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        Ok(())
    }

    fn kill(&mut self) {
        self.shared.running.store(false, Ordering::SeqCst);
    }

    fn command(&mut self, line: &str) -> Result<String> {
        match line {
            "ifconfig carp0 down" | "ifconfig carp0 up" => {
                let down = line.ends_with("down");
                self.shared.down.store(down, Ordering::SeqCst);
                Ok(String::new())
            }
            "ifconfig carp0" => {
                let word = ["INIT", "BACKUP", "MASTER"];
                let word = word[usize::from(self.shared.state.load(Ordering::SeqCst))];
                Ok(format!(
                    "carp0: flags=1<UP>\n\tcarp: {word} vhid 1 advbase 0 advskew 0"
                ))
            }
            other => bail!("a fake does not know `{other}`"),
        }
    }

    fn is_running(&mut self) -> bool {
        self.shared.running.load(Ordering::SeqCst)
    }
}

impl Brain {
    fn run(&mut self) {
        let mut next_advert = Instant::now();
        while !self.shared.stop.load(Ordering::SeqCst) {
            let frame = self.port.receive(Duration::from_micros(500));
            if !self.shared.running.load(Ordering::SeqCst) {
                self.state = State::Off;
                continue;
            }
            if self.state == State::Off {
                self.last_advert = Instant::now();
                self.become_state(State::Backup, "initialized");
            }
            if self.shared.down.load(Ordering::SeqCst) {
                if self.state == State::Master {
                    self.advertise(BOW_OUT);
                    self.become_state(State::Backup, "by request");
                }
                self.last_advert = Instant::now();
                continue;
            }
            if let Some(frame) = frame {
                self.receive(&frame.bytes);
            }
            if self.state == State::Backup && self.last_advert.elapsed() > self.master_down {
                self.become_state(State::Master, "master timed out");
                next_advert = Instant::now();
            }
            if self.state == State::Master && Instant::now() >= next_advert {
                self.advertise(self.skew);
                next_advert = Instant::now() + ADVERT_INTERVAL;
            }
        }
    }

    fn become_state(&mut self, state: State, reason: &str) {
        let text = format!("carp0: {} -> {state} ({reason})", self.state);
        self.state = state;
        let number = match state {
            State::Off | State::Init => 0,
            State::Backup => 1,
            State::Master => 2,
        };
        self.shared.state.store(number, Ordering::SeqCst);
        let _ = self.lines.send(ConsoleLine {
            node: self.name.clone(),
            at: Instant::now(),
            text,
        });
    }

    fn advertise(&self, skew: u8) {
        self.send(EthernetAddress::BROADCAST, ADVERT, &[skew; 50]);
    }

    fn send(&self, to: EthernetAddress, protocol: EthernetProtocol, payload: &[u8]) {
        let mut bytes = vec![0; 14 + payload.len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        frame.set_dst_addr(to);
        frame.set_src_addr(VIRTUAL_MAC);
        frame.set_ethertype(protocol);
        frame.payload_mut().copy_from_slice(payload);
        self.port.send(bytes);
    }

    fn receive(&mut self, bytes: &[u8]) {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else {
            return;
        };
        match frame.ethertype() {
            ADVERT => {
                let theirs = frame.payload()[0];
                if theirs > self.skew && self.state == State::Backup {
                    self.become_state(State::Master, "preempting a slower master");
                } else if theirs < self.skew && self.state == State::Master {
                    self.become_state(State::Backup, "more frequent advertisement received");
                }
                self.last_advert = Instant::now();
            }
            EthernetProtocol::Arp if self.state == State::Master => self.answer_arp(&frame),
            EthernetProtocol::Ipv4 if self.state == State::Master => self.answer_ping(&frame),
            _ => {}
        }
    }

    fn answer_arp(&self, frame: &EthernetFrame<&[u8]>) {
        let request = ArpPacket::new_checked(frame.payload()).and_then(|p| ArpRepr::parse(&p));
        if let Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = request
            && target_protocol_addr == self.address
        {
            let reply = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: VIRTUAL_MAC,
                source_protocol_addr: self.address,
                target_hardware_addr: source_hardware_addr,
                target_protocol_addr: source_protocol_addr,
            };
            let mut payload = vec![0; reply.buffer_len()];
            reply.emit(&mut ArpPacket::new_unchecked(&mut payload));
            self.send(source_hardware_addr, EthernetProtocol::Arp, &payload);
        }
    }

    /// Turns the request round in place: swapping both addresses leaves the IP checksum right, and
    /// type 8 to 0 adds 0x0800 to the ICMP one.
    fn answer_ping(&self, frame: &EthernetFrame<&[u8]>) {
        let mut packet = frame.payload().to_vec();
        if packet.len() < 28 || packet[9] != 1 || packet[20] != 8 {
            return;
        }
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        packet[20] = 0;
        let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + 0x0800;
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[22..24].copy_from_slice(&(sum as u16).to_be_bytes());
        self.send(frame.src_addr(), EthernetProtocol::Ipv4, &packet);
    }
}

#[cfg(test)]
mod tests {
    use super::super::demonstration::Demonstration;
    use super::super::outcome::{Step, rows, table};
    use super::super::screen::Screen;
    use super::super::{Scenario, Watch};
    use super::*;
    use crate::client::{Client, Settings};
    use crate::host;
    use crate::node::NodeKind;

    /// These tests measure milliseconds; side by side they would measure each other.
    static ALONE: Mutex<()> = Mutex::new(());

    fn demonstration(waits: [Duration; 2]) -> (tempfile::TempDir, Demonstration<Fake>) {
        let directory = host::socket_directory().unwrap();
        let lan = Lan::start(directory.path(), None).unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let scenario = Scenario::new(true, [NodeKind::VM; 2]);
        let address = scenario.virtual_address;
        let nodes = [(0, "a", 10), (1, "b", 20)]
            .map(|(i, name, skew)| Fake::new(&lan, name, skew, waits[i], address, sender.clone()));
        let settings = Settings {
            address: (scenario.client, scenario.prefix),
            mac: [2, 0, 0, 0, 0, 0xcc],
            target: address,
            interval: Duration::from_millis(1),
        };
        let client = Client::start(lan.attach("client").unwrap(), settings).unwrap();
        let (watch, screen) = (Watch::new(lines), Screen::silent());
        (
            directory,
            Demonstration {
                scenario,
                lan,
                client,
                nodes,
                watch,
                screen,
            },
        )
    }

    #[test]
    fn all_five_steps_end_well_with_nodes_that_do_as_they_should() {
        let _alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let waits = [Duration::from_millis(40), Duration::from_millis(60)];
        let (_directory, mut demonstration) = demonstration(waits);
        let outcomes = demonstration.run().unwrap();
        let text = table(&outcomes);
        assert!(outcomes.iter().all(|o| o.problem.is_none()), "{text}");
        let masters: Vec<&str> = outcomes.iter().flat_map(|o| o.master.as_deref()).collect();
        assert_eq!(masters[..3], ["a", "b", "a"], "{text}");
        let crash = &outcomes[1];
        assert_eq!(crash.hand_over, ("a".to_owned(), "b".to_owned()), "{text}");
        let outage = crash.window.outage.as_secs_f64() * 1000.0;
        let slack = crash.window.own_stall.as_secs_f64() * 1000.0 + 5.0;
        assert!((55.0 - slack..62.0 + slack).contains(&outage), "{text}");
        let rows = rows(&demonstration.scenario, &[outcomes]);
        assert_eq!(rows.len(), 7);
        assert_eq!(rows[1].row, Step::Crash.title());
    }

    #[test]
    fn a_planned_gap_is_measured_as_it_was() {
        let _alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (_directory, mut d) = demonstration([Duration::from_millis(30); 2]);
        assert_eq!(d.step(Step::Start).unwrap().problem, None);
        // A busy host makes single measurements late: the best of some must be right.
        let mut best = f64::MAX;
        for _ in 0..8 {
            let start = Instant::now();
            let port = d.nodes[0].port();
            d.lan
                .set_link(
                    port,
                    crate::lan::Link {
                        cut: true,
                        ..Default::default()
                    },
                )
                .unwrap();
            let cut = Instant::now();
            while cut.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            d.lan.set_link(port, crate::lan::Link::default()).unwrap();
            let gap = cut.elapsed().as_secs_f64() * 1000.0;
            thread::sleep(Duration::from_millis(120));
            let window = d.client.window(start, Instant::now());
            best = best.min((window.outage.as_secs_f64() * 1000.0 - gap).abs());
        }
        assert!(best <= 2.0, "off by {best} ms at best");
    }

    #[test]
    fn two_masters_or_a_silent_one_fail_the_step() {
        let _alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (_directory, mut d) = demonstration([Duration::from_millis(30); 2]);
        assert_eq!(d.step(Step::Start).unwrap().problem, None);
        // The nodes hear each other no more, and the healing is left out.
        let outcome = d.step(Step::Cut).unwrap();
        assert_eq!(outcome.problem, None);
        let now = Instant::now();
        d.watch.set("a", State::Master);
        assert!(d.settle_for_test(now).unwrap().is_some());
    }
}
