//! Nodes and a segment in memory: the sans-I/O stacks driven without an executor, at virtual time.
//!
//! A [`Node`] is one [`CpuStack`] per CPU and the message passing between them; a [`Segment`] connects
//! nodes and loses frames by a seeded generator.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use net::*;

pub const MILLISECOND_NS: u64 = 1_000_000;
pub const SECOND_NS: u64 = 1_000_000_000;
pub const ETHERNET: InterfaceIndex = InterfaceIndex(1);

/// A small generator (xorshift64*); the same seed gives the same run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// A node with one Ethernet interface.
pub struct Node {
    pub stacks: Vec<CpuStack>,
    pub now_ns: u64,
    pub mac: MacAddress,
    /// Frames that left, oldest first.
    pub sent: VecDeque<Vec<u8>>,
    pub events: Vec<NetworkEvent>,
    pub raw: Vec<ProtocolInput>,
    /// CPUs that handled IP packets of others' rings, for the distribution tests.
    pub posts: Vec<(u16, &'static str)>,
    next_socket: u64,
}

impl Node {
    pub fn new(cpu_count: u16, number: u8, address: &str) -> Node {
        let mac = MacAddress([2, 0, 0, 0, 0, number]);
        let mut node = Node {
            stacks: (0..cpu_count)
                .map(|cpu| CpuStack::new(cpu, cpu_count, 1))
                .collect(),
            now_ns: 0,
            mac,
            sent: VecDeque::new(),
            events: Vec::new(),
            raw: Vec::new(),
            posts: Vec::new(),
            next_socket: 1,
        };
        node.apply(Change::Attach {
            name: "vtnet0".into(),
            mac,
            mtu_bytes: 1500,
            link: true,
        });
        node.apply(Change::SetUp {
            interface: ETHERNET,
            up: true,
        });
        let address = address.parse().unwrap();
        node.apply(Change::AddAddress {
            interface: ETHERNET,
            address,
        });
        node.apply(Change::JoinGroup {
            interface: ETHERNET,
            group: ip("224.0.0.18"),
        });
        node.stacks[0].register_protocol(112);
        node.sent.clear();
        node.events.clear();
        node
    }

    pub fn apply(&mut self, change: Change) {
        self.try_apply(&change).unwrap();
    }

    /// The chain 0..N; ends at CPU 0 if that refuses.
    pub fn try_apply(&mut self, change: &Change) -> Result<(), ConfigError> {
        for cpu in 0..self.stacks.len() {
            self.stacks[cpu].apply(self.now_ns, change)?;
        }
        self.run();
        Ok(())
    }

    pub fn add_virtual(&mut self, vhid: u8, address: &str, master: bool) {
        self.apply(Change::SetVirtual(VirtualAddress {
            interface: ETHERNET,
            address: address.parse().unwrap(),
            vhid,
            mac: virtual_mac(vhid),
            master,
        }));
    }

    pub fn bind(&mut self, kind: BindingKind, owner: u16, address: &str, port: u16) -> SocketId {
        let socket = SocketId(self.next_socket);
        self.next_socket += 1;
        let address = ip(address);
        self.apply(Change::Bind(Binding {
            socket,
            kind,
            address,
            port,
            owner,
        }));
        socket
    }

    /// Carries out all actions until there are none.
    pub fn run(&mut self) {
        loop {
            let mut idle = true;
            for cpu in 0..self.stacks.len() {
                while let Some(action) = self.stacks[cpu].take_action() {
                    idle = false;
                    self.act(action);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Transmit { interface, packet } => {
                assert_eq!(interface, ETHERNET);
                assert!(packet.headroom() >= net::config::DRIVER_HEADROOM_BYTES);
                self.sent.push_back(packet.to_vec());
            }
            Action::Post { cpu, message } => {
                let name = match message {
                    CpuMessage::Ip { .. } => "ip",
                    CpuMessage::Arp { .. } => "arp",
                    CpuMessage::ArpAsk { .. } => "ask",
                    CpuMessage::ArpLearn { .. } => "learn",
                    CpuMessage::ArpForget { .. } => "forget",
                    CpuMessage::Deliver { .. } => "deliver",
                };
                self.posts.push((cpu, name));
                self.stacks[usize::from(cpu)].message(self.now_ns, message);
            }
            Action::Protocol(input) => self.raw.push(input),
            Action::Event(event) => self.events.push(event),
        }
    }

    /// A frame arrives on CPU `cpu`.
    pub fn receive_on(&mut self, cpu: usize, frame: &[u8]) {
        let packet = Packet::copy_from(0, frame).unwrap();
        self.stacks[cpu].input(self.now_ns, ETHERNET, packet);
        self.run();
    }

    pub fn receive(&mut self, frame: &[u8]) {
        self.receive_on(0, frame);
    }

    /// Lets time pass to `now_ns`, running what falls due.
    pub fn advance(&mut self, now_ns: u64) {
        while let Some(due_ns) = self.next_deadline_ns().filter(|&due_ns| due_ns <= now_ns) {
            self.now_ns = due_ns.max(self.now_ns);
            for stack in &mut self.stacks {
                stack.poll(self.now_ns);
            }
            self.run();
        }
        self.now_ns = now_ns;
    }

    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.stacks
            .iter()
            .filter_map(CpuStack::next_deadline_ns)
            .min()
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.stacks
            .iter()
            .for_each(|stack| snapshot.add(stack.counters()));
        snapshot
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.snapshot().drops(reason)
    }

    pub fn echo(&mut self, socket: SocketId, cpu: usize, to: &str, sequence: u16) {
        let data = [0x5a; 56];
        let _ = self.stacks[cpu].echo_send(self.now_ns, socket, ip(to), sequence, &data);
        self.run();
    }

    pub fn udp(&mut self, socket: SocketId, cpu: usize, to: &str, data: &[u8]) {
        let to: SocketAddrV4 = to.parse().unwrap();
        let _ = self.stacks[cpu].udp_send(self.now_ns, socket, None, to, data);
        self.run();
    }
}

/// A segment between nodes: every frame reaches every other node after a millisecond, or is lost.
pub struct Segment {
    pub nodes: Vec<Node>,
    pub random: Random,
    /// Out of 1000.
    pub loss: usize,
    pub now_ns: u64,
    /// Which CPU of the receiving node a frame arrives on varies, as with many receive queues.
    pub spread: bool,
}

impl Segment {
    pub fn new(nodes: Vec<Node>, seed: u64, loss: usize) -> Segment {
        Segment {
            nodes,
            random: Random(seed),
            loss,
            now_ns: 0,
            spread: true,
        }
    }

    /// One millisecond: what was sent arrives, what is due happens.
    pub fn step(&mut self) {
        self.now_ns += MILLISECOND_NS;
        let mut frames = Vec::new();
        for (from, node) in self.nodes.iter_mut().enumerate() {
            frames.extend(node.sent.drain(..).map(|frame| (from, frame)));
            node.advance(self.now_ns);
        }
        for (from, frame) in frames {
            for to in (0..self.nodes.len()).filter(|&to| to != from) {
                if self.random.below(1000) >= self.loss {
                    let cpus = if self.spread {
                        self.nodes[to].stacks.len()
                    } else {
                        1
                    };
                    let cpu = self.random.below(cpus);
                    self.nodes[to].receive_on(cpu, &frame);
                }
            }
        }
    }

    pub fn run_for(&mut self, milliseconds: usize) {
        (0..milliseconds).for_each(|_| self.step());
    }
}
