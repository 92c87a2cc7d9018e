//! The network of a node: a [`CpuStack`] on every CPU, and the ports and tasks that drive them.
//!
//! Each CPU has four ports, each with its thread: `ether` (frames its devices received), `arp`, `ip` and
//! `udp` (messages of stacks, this CPU's own or others'). A port that is idle handles a message
//! inside the `post`, so a frame whose flow belongs to the receiving CPU goes from driver to socket
//! without a queue; from another CPU it arrives by IPI message. A CPU's stack is a [`CpuLocal`] and
//! borrowed only within one call of it; its actions are carried out after that, outside of the
//! borrow, in order. So a driver, a handler or a port may call back in.
//!
//! The stack could have been split in four, one part in each server. Then ARP's table would be a call
//! away from IP output on the same CPU, for no gain: only one of the four runs at a time.
//! Source: DragonFly sys/net/netisr.c, netisr2.h.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::pin::pin;
use core::sync::atomic::{AtomicU32, Ordering};

use executor::{
    Builder, CpuId, CpuLocal, Message, Node, Pending, Port, PortRef, Put, Serve, Server,
};
use futures_util::future::{Either, select};
use spin::Once;

use crate::address::InterfaceIndex;
use crate::config;
use crate::device::Device;
use crate::packet::Packet;
use crate::stack::{Action, CpuMessage, CpuStack, NetworkEvent, ProtocolInput};

/// The handler of a raw protocol.
type ProtocolHandler = Arc<dyn Fn(ProtocolInput) + Send + Sync>;

/// A subscriber of events.
type Subscriber = Arc<dyn Fn(&NetworkEvent) + Send + Sync>;

/// A handle to a node's network. Clones are the same network; any CPU of the node may use one.
#[derive(Clone)]
pub struct Network {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Network")
    }
}

/// One attached interface, as its driver knows it.
#[derive(Clone, Debug)]
pub struct Interface {
    pub(crate) network: Network,
    pub(crate) index: InterfaceIndex,
}

/// What all CPUs reach. Nothing in it is written while packets flow.
pub(crate) struct Shared {
    pub(crate) cpu_count: u16,
    pub(crate) cpus: CpuLocal<RefCell<CpuState>>,
    /// By CPU; set once the tasks run.
    ports: Once<Box<[CpuPorts]>>,
    /// By interface index.
    pub(crate) devices: [Once<Arc<dyn Device>>; config::INTERFACES],
    /// By CPU: packets posted to its ports and not handled yet.
    queued: Box<[AtomicU32]>,
    /// By CPU: tells its ARP thread to look at its stack again.
    kicks: Box<[executor::Event]>,
}

/// What only one CPU reaches.
pub(crate) struct CpuState {
    pub(crate) stack: CpuStack,
    /// What the ARP thread's timer is set to.
    armed_ns: Option<u64>,
    /// CPU 0's only, both.
    pub(crate) protocols: Vec<(u8, ProtocolHandler)>,
    pub(crate) subscribers: Vec<Subscriber>,
}

/// The ports of one CPU.
struct CpuPorts {
    ethernet: PortRef<Protocols>,
    arp: PortRef<Protocols>,
    ip: PortRef<Protocols>,
    udp: PortRef<Protocols>,
}

/// Something to handle, sent to one of the ports. Nobody waits for it.
pub(crate) enum Input {
    Frame {
        interface: InterfaceIndex,
        packet: Packet,
    },
    Message(CpuMessage),
}

impl Input {
    /// Whether it carries a received packet, which may be dropped.
    fn is_packet(&self) -> bool {
        !matches!(
            self,
            Input::Message(
                CpuMessage::ArpAsk { .. }
                    | CpuMessage::ArpLearn { .. }
                    | CpuMessage::ArpForget { .. }
            )
        )
    }
}

impl Message for Input {
    type Reply = ();
}

/// The server behind each port of a CPU.
struct Protocols {
    /// Weak, because `Shared` holds the ports: the threads keep it alive, and they end with the
    /// node.
    local: Weak<Local>,
}

/// A CPU's own handle to the network, so that a port's server and threads count a reference without
/// an atomic operation on a line that all CPUs share.
struct Local {
    shared: Arc<Shared>,
}

impl Server for Protocols {
    type Work = Pending<Input>;
}

impl Serve<Input> for Protocols {
    fn put(&self, input: Input) -> Put<Input> {
        if let Some(local) = self.local.upgrade() {
            let shared = &local.shared;
            if input.is_packet() {
                shared.queued[executor::current_cpu().index()].fetch_sub(1, Ordering::Relaxed);
            }
            shared.drive(|stack, now_ns| match input {
                Input::Frame { interface, packet } => stack.input(now_ns, interface, packet),
                Input::Message(message) => stack.message(now_ns, message),
            });
        }
        Put::Done(())
    }

    fn queue(pending: Pending<Input>) -> Pending<Input> {
        pending
    }
}

impl Network {
    /// Starts the network of `node`: its tasks on every CPU, and `lo0`. To be called on a CPU of the
    /// node. The seed makes IP identifications and ports differ between boots.
    pub async fn start(node: &Node, seed: u64) -> Network {
        let cpu_count = node.cpu_count() as u16;
        let state = |cpu: CpuId| {
            RefCell::new(CpuState {
                stack: CpuStack::new(cpu.0, cpu_count, seed),
                armed_ns: None,
                protocols: Vec::new(),
                subscribers: Vec::new(),
            })
        };
        let shared = Arc::new(Shared {
            cpu_count,
            cpus: CpuLocal::new(node, state),
            ports: Once::new(),
            devices: [const { Once::new() }; config::INTERFACES],
            queued: (0..cpu_count).map(|_| AtomicU32::new(0)).collect(),
            kicks: (0..cpu_count).map(|_| executor::Event::new()).collect(),
        });
        let mut ports = Vec::new();
        for cpu in 0..cpu_count {
            let shared = shared.clone();
            let start =
                executor::spawn_on(CpuId(cpu), "net start", move || async { start_cpu(shared) });
            ports.push(start.await);
        }
        shared.ports.call_once(|| ports.into());
        Network { shared }
    }
}

impl Interface {
    /// The interface's index.
    pub fn index(&self) -> InterfaceIndex {
        self.index
    }

    /// Takes a received frame, whole from the destination address on, without the checksum at its
    /// end. To be called by the driver on the CPU that received it.
    pub fn input(&self, packet: Packet) {
        let interface = self.index;
        let shared = &self.network.shared;
        let cpu = executor::current_cpu().0;
        let input = Input::Frame { interface, packet };
        if !shared.send(cpu, |ports| &ports.ethernet, input) {
            shared.with(|state| state.stack.count_refused_frame());
        }
    }

    /// To be called by the driver after [`Device::link_up`] has changed; every CPU will know soon.
    pub fn link_changed(&self) {
        let Some(device) = self.network.shared.device(self.index) else {
            return;
        };
        let up = device.link_up();
        let interface = self.index;
        let network = self.network.clone();
        let tell = async move {
            // It cannot be refused: the interface exists.
            let _ = network
                .change(crate::tables::Change::SetLink { interface, up })
                .await;
        };
        executor::spawn("net link", tell).detach();
    }
}

/// Makes the ports and threads of the current CPU.
fn start_cpu(shared: Arc<Shared>) -> CpuPorts {
    let local = Rc::new(Local { shared });
    let port = || {
        Port::new(Protocols {
            local: Rc::downgrade(&local),
        })
    };
    let (ethernet, arp, ip, udp) = (port(), port(), port(), port());
    let handles = CpuPorts {
        ethernet: ethernet.handle(),
        arp: arp.handle(),
        ip: ip.handle(),
        udp: udp.handle(),
    };
    let soft = |name| Builder::new(name).priority(config::PRIORITY);
    soft("net ether")
        .spawn(serve(ethernet, local.clone()))
        .detach();
    soft("net ip").spawn(serve(ip, local.clone())).detach();
    soft("net udp").spawn(serve(udp, local.clone())).detach();
    soft("net arp").spawn(serve_arp(arp, local)).detach();
    handles
}

/// The thread of a port: what could not be handled inside the `post`. After a batch it lets others
/// run, or a flood would hold the CPU.
async fn serve(port: Port<Protocols>, _local: Rc<Local>) {
    loop {
        for _ in 0..config::BATCH_MESSAGES {
            handle(&port, port.receive().await);
        }
        executor::yield_now().await;
    }
}

/// The ARP thread also does what the stack has due by the clock, and what a change of the tables
/// left to do.
async fn serve_arp(port: Port<Protocols>, local: Rc<Local>) {
    let shared = &local.shared;
    let kick = &shared.kicks[executor::current_cpu().index()];
    loop {
        for _ in 0..config::BATCH_MESSAGES {
            let deadline_ns = shared.arm();
            let (message, kicked) = (pin!(port.receive()), pin!(kick.wait()));
            let next = select(message, kicked);
            let work = match deadline_ns {
                Some(deadline_ns) => {
                    let timer = pin!(executor::sleep_until(deadline_ns));
                    match select(next, timer).await {
                        Either::Left((next, _)) => Some(next),
                        Either::Right(_) => None,
                    }
                }
                None => Some(next.await),
            };
            match work {
                Some(Either::Left((pending, _))) => handle(&port, pending),
                Some(Either::Right(_)) | None => {
                    shared.drive(|stack, now_ns| stack.poll(now_ns));
                }
            }
        }
        executor::yield_now().await;
    }
}

fn handle(port: &Port<Protocols>, pending: Pending<Input>) {
    if let Err(pending) = pending.serve(port.server()) {
        pending.reply(());
    }
}

impl Shared {
    /// Runs `work` on this CPU's stack and carries out what it asks for.
    pub(crate) fn drive<R>(&self, work: impl FnOnce(&mut CpuStack, u64) -> R) -> R {
        let now_ns = executor::poll_ns();
        let result = self.with(|state| work(&mut state.stack, now_ns));
        while let Some(action) = self.with(|state| state.stack.take_action()) {
            self.carry_out(action);
        }
        if self.with(|state| state.stack.next_deadline_ns() != state.armed_ns) {
            self.kick(executor::current_cpu());
        }
        result
    }

    /// This CPU's state; `f` must not call back into the network.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut CpuState) -> R) -> R {
        self.cpus.with(|state| f(&mut state.borrow_mut()))
    }

    pub(crate) fn device(&self, interface: InterfaceIndex) -> Option<&Arc<dyn Device>> {
        self.devices.get(interface.index())?.get()
    }

    /// Makes a CPU's ARP thread look at its stack: at its deadline and its actions.
    pub(crate) fn kick(&self, cpu: CpuId) {
        if let Some(kick) = self.kicks.get(cpu.index()) {
            kick.signal();
        }
    }

    fn carry_out(&self, action: Action) {
        match action {
            Action::Transmit { interface, packet } => {
                if let Some(device) = self.device(interface) {
                    device.transmit(packet);
                }
            }
            Action::Post { cpu, message } => self.post(cpu, message),
            Action::Protocol(input) => {
                let handler = self.with(|state| {
                    let mut handlers = state.protocols.iter();
                    let found = handlers.find(|(protocol, _)| *protocol == input.protocol);
                    found.map(|(_, handler)| handler.clone())
                });
                if let Some(handler) = handler {
                    handler(input);
                }
            }
            Action::Event(event) => {
                let subscribers = self.with(|state| state.subscribers.clone());
                subscribers.iter().for_each(|subscriber| subscriber(&event));
            }
        }
    }

    /// Sends a message to the port of its protocol on a CPU.
    fn post(&self, cpu: u16, message: CpuMessage) {
        let choose: fn(&CpuPorts) -> &PortRef<Protocols> = match message {
            CpuMessage::Ip { .. } => |ports| &ports.ip,
            CpuMessage::Deliver { .. } => |ports| &ports.udp,
            _ => |ports| &ports.arp,
        };
        if !self.send(cpu, choose, Input::Message(message)) {
            self.with(|state| state.stack.count_refused_message());
        }
    }

    /// Sends to a port of a CPU; false if it is a packet and too many wait there already.
    fn send(&self, cpu: u16, choose: fn(&CpuPorts) -> &PortRef<Protocols>, input: Input) -> bool {
        let Some(ports) = self.ports(cpu) else {
            return false;
        };
        if input.is_packet() {
            let queued = &self.queued[usize::from(cpu)];
            if queued.fetch_add(1, Ordering::Relaxed) >= config::QUEUED_PACKETS {
                queued.fetch_sub(1, Ordering::Relaxed);
                return false;
            }
        }
        choose(ports).post(input);
        true
    }

    /// Takes the ARP thread's deadline from the stack and remembers it.
    fn arm(&self) -> Option<u64> {
        self.with(|state| {
            state.armed_ns = state.stack.next_deadline_ns();
            state.armed_ns
        })
    }

    fn ports(&self, cpu: u16) -> Option<&CpuPorts> {
        self.ports.get()?.get(usize::from(cpu))
    }
}
