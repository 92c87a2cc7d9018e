//! `vke`: the network card of a kernel that is no machine of its own: a process, or a node of a simulator.
//!
//! There is no bus and no ring: the platform gives a [`Cable`], which takes frames and gives them. What is left of a
//! driver is three threads on the CPU that called [`NetworkDevice::start`]: receive (batches of 32, then a yield),
//! transmit, for frames from other CPUs, and flush. A frame is given to the cable at once, and the cable is flushed when
//! the thread that sent it has been polled: what one poll sends, answers to a batch or to all that waited in a socket,
//! leaves together.
//!
//! Decision: it is a thread that flushes, and not who sends: only the run queue knows when a poll is over. A frame waits
//! for one switch of threads, and 32 frames are one system call of the host.
//!
//! Decision: a cable that is full loses frames, counted, and nothing waits for it. A process's socket holds what a
//! ring would, and the switch behind it drops in the same way.
//! Source: the name is DragonFly's (`sys/dev/virtual/vkernel/net/if_vke.c`); nothing else of it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use executor::{
    Builder, Counter, Event, Message, Pending, Port, PortRef, Priority, Put, Serve, Server,
};
use net::{DeviceStatistics, Interface, MacAddress, Packet};

use crate::network::NetworkDevice;

#[cfg(test)]
mod tests;

/// Frames handled between two yields.
const BATCH: usize = 32;
/// Batches without a pause after which threads of any priority get to run.
const FLOOD_BATCHES: u32 = 8;
/// How long they then get.
const BREATH: Duration = Duration::from_micros(100);
/// Frames that wait for the card's CPU.
const QUEUE_LIMIT: usize = 1024;
/// Before a received frame, so that an answer can be built in place.
const HEADROOM_BYTES: usize = net::config::DRIVER_HEADROOM_BYTES;

/// Why a frame did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The cable holds no more.
    Full,
    /// Nothing is connected.
    Unplugged,
}

/// What a platform plugs a card into. Its methods are called on the card's CPU, [`link_up`](Self::link_up) on any.
pub trait Cable: Send + Sync + 'static {
    /// The card's Ethernet address; it does not change.
    fn mac(&self) -> [u8; 6];

    /// Whether something is connected.
    fn link_up(&self) -> bool;

    /// Signalled by the platform when frames have come or the link has changed. Has one waiter, the card's thread.
    fn event(&self) -> &Event;

    /// Gives the next received frame to `take`. False: there is none, and the next one signals the event.
    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool;

    /// Takes a frame; it leaves with the next [`flush`](Self::flush) at the latest, which comes when the poll that sent
    /// it is over.
    fn send(&self, frame: &[u8]) -> Result<(), NotSent>;

    /// Sends what was taken.
    fn flush(&self);
}

/// Declares the counters of the card's CPU once: the fields, their texts for `netstat -s`, and how to walk them.
macro_rules! counters {
    ($($name:ident = $text:literal),* $(,)?) => {
        #[derive(Default)]
        struct Counters { $($name: Counter,)* }

        impl Counters {
            fn each(&self, show: &mut dyn FnMut(&'static str, u64)) {
                $(show($text, self.$name.get());)*
            }
        }
    };
}

counters! {
    received = "input frames",
    received_bytes = "input bytes",
    no_memory = "input dropped: no memory",
    sent = "output frames",
    sent_bytes = "output bytes",
    full = "output dropped: the cable is full",
    unplugged = "output dropped: nothing is connected",
}

/// What every CPU may touch.
struct Status {
    mac: [u8; 6],
    link_up: AtomicBool,
    /// Frames between [`net::Device::transmit`] and the cable.
    queued: AtomicUsize,
    /// Frames that found too many before them, on whatever CPU.
    queue_full: AtomicU64,
    /// Written on the card's CPU alone.
    counters: Counters,
}

/// The card on its own CPU.
struct Core {
    cable: Arc<dyn Cable>,
    status: Arc<Status>,
    /// The cable holds frames that have not left.
    unflushed: Cell<bool>,
    /// Signalled when that becomes true.
    flush: Event,
}

/// A card with a cable in it, not yet driven.
pub struct Vke {
    core: Rc<Core>,
    port: Port<Sender>,
}

impl Vke {
    /// A card at the end of this cable. To be called on the CPU that will drive it.
    pub fn new(cable: Arc<dyn Cable>) -> Self {
        let status = Arc::new(Status {
            mac: cable.mac(),
            link_up: AtomicBool::new(cable.link_up()),
            queued: AtomicUsize::new(0),
            queue_full: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let core = Rc::new(Core {
            cable,
            status,
            unflushed: Cell::new(false),
            flush: Event::new(),
        });
        Self {
            port: Port::new(Sender(core.clone())),
            core,
        }
    }
}

impl NetworkDevice for Vke {
    fn driver(&self) -> &'static str {
        "vke"
    }

    fn device(&self) -> Arc<dyn net::Device> {
        Arc::new(Device {
            port: self.port.handle(),
            status: self.core.status.clone(),
        })
    }

    fn start(self: Box<Self>, interface: Interface) {
        let Self { core, port } = *self;
        let spawn = |name| Builder::new(name).priority(Priority::INTERRUPT_SUPPORT);
        spawn("vke receive")
            .spawn(receive(core.clone(), interface))
            .detach();
        spawn("vke flush").spawn(flush(core.clone())).detach();
        spawn("vke transmit").spawn(transmit(core, port)).detach();
    }
}

impl Core {
    fn send(&self, packet: &Packet) {
        let Status {
            queued, counters, ..
        } = &*self.status;
        queued.fetch_sub(1, Ordering::Relaxed);
        match self.cable.send(packet.data()) {
            Ok(()) => {
                counters.sent.add(1);
                counters.sent_bytes.add(packet.data().len() as u64);
                if !self.unflushed.replace(true) {
                    self.flush.signal();
                }
            }
            Err(NotSent::Full) => counters.full.add(1),
            Err(NotSent::Unplugged) => counters.unplugged.add(1),
        }
    }

    /// Takes up to [`BATCH`] frames off the cable. True: there may be more.
    fn take(&self, batch: &mut Vec<Packet>) -> bool {
        let counters = &self.status.counters;
        let mut take = |frame: &[u8]| match Packet::copy_from(HEADROOM_BYTES, frame) {
            Ok(packet) => {
                counters.received.add(1);
                counters.received_bytes.add(frame.len() as u64);
                batch.push(packet);
            }
            Err(net::OutOfMemory) => counters.no_memory.add(1),
        };
        (0..BATCH).all(|_| self.cable.receive(&mut take))
    }
}

async fn receive(core: Rc<Core>, interface: Interface) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut batches = 0_u32;
    loop {
        let link_up = core.cable.link_up();
        if core.status.link_up.swap(link_up, Ordering::Relaxed) != link_up {
            interface.link_changed();
        }
        let more = core.take(&mut batch);
        for packet in batch.drain(..) {
            interface.input(packet);
        }
        if !more {
            batches = 0;
            core.cable.event().wait().await;
            continue;
        }
        batches = batches.wrapping_add(1);
        if batches.is_multiple_of(FLOOD_BATCHES) {
            executor::sleep(BREATH).await;
        } else {
            executor::yield_now().await;
        }
    }
}

/// Sends what came from other CPUs.
async fn transmit(core: Rc<Core>, port: Port<Sender>) {
    loop {
        for _ in 0..BATCH {
            let work = port.receive().await;
            core.send(&work.message().0);
            work.reply(());
        }
        executor::yield_now().await;
    }
}

/// Has the cable send what it was given.
async fn flush(core: Rc<Core>) {
    loop {
        core.flush.wait().await;
        core.unflushed.set(false);
        core.cable.flush();
    }
}

/// A frame to send.
struct Transmit(Packet);

impl Message for Transmit {
    type Reply = ();
}

/// The server of a card's port.
struct Sender(Rc<Core>);

impl Server for Sender {
    type Work = Pending<Transmit>;
}

impl Serve<Transmit> for Sender {
    fn put(&self, message: Transmit) -> Put<Transmit> {
        self.0.send(&message.0);
        Put::Done(())
    }

    fn queue(pending: Pending<Transmit>) -> Pending<Transmit> {
        pending
    }
}

/// A card as the protocols see it.
struct Device {
    port: PortRef<Sender>,
    status: Arc<Status>,
}

impl net::Device for Device {
    fn mac(&self) -> MacAddress {
        MacAddress(self.status.mac)
    }

    fn mtu_bytes(&self) -> u16 {
        1500
    }

    fn link_up(&self) -> bool {
        self.status.link_up.load(Ordering::Relaxed)
    }

    fn transmit(&self, packet: Packet) {
        let Status {
            queued, queue_full, ..
        } = &*self.status;
        if queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_LIMIT {
            queued.fetch_sub(1, Ordering::Relaxed);
            queue_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.port.post(Transmit(packet));
    }

    fn each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.status.counters.each(show);
        let queue_full = self.status.queue_full.load(Ordering::Relaxed);
        show("output dropped: too many wait for the device", queue_full);
    }

    fn statistics(&self) -> DeviceStatistics {
        let Counters {
            received,
            received_bytes,
            no_memory,
            sent,
            sent_bytes,
            full,
            unplugged,
        } = &self.status.counters;
        let queue_full = self.status.queue_full.load(Ordering::Relaxed);
        DeviceStatistics {
            received_packets: received.get(),
            received_bytes: received_bytes.get(),
            received_drops: no_memory.get(),
            sent_packets: sent.get(),
            sent_bytes: sent_bytes.get(),
            sent_drops: full.get() + unplugged.get() + queue_full,
        }
    }
}
