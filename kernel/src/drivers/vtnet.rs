//! `vtnet`: a virtio network device as the protocols see it, and the threads that drive it.
//!
//! [`Vtnet::bring_up`] makes the device work, [`Vtnet::device`] is its [`net::Device`], usable on every CPU,
//! and [`Vtnet::start`] runs three threads on the CPU that called it, the one its interrupts go to:
//! receive (batches of 32, then a yield), transmit, configuration. Interrupt handlers only signal
//! the [`Events`].
//!
//! Sending is a message to a [`Port`] on the device's CPU. From that CPU itself, with room in the
//! ring and nothing queued before, the frame is in the ring when `transmit` returns: no queue, no
//! wake. Else it waits in the port's queue, which is bounded: a protocol that outruns the wire
//! loses packets by a counted drop, not memory.
//!
//! Received packets are collected before they are handed up: a protocol may answer at once, and its
//! answer must find the device not borrowed.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use executor::{Builder, Event, Message, Pending, Port, PortRef, Priority, Put, Serve, Server};
use net::{DeviceStatistics, MacAddress, Packet};

use super::dma::Dma;
use super::virtio::net::{
    NetCounters, NetSetupError, NoMemory, Progress, TransmitError, Vectors, VirtioNet,
};
use super::virtio::transport::Transport;

/// Frames handled between two yields.
const BATCH: usize = 32;
/// Batches without a pause after which a device's thread lets threads of any priority run: a flood must
/// not silence the console, or a CARP master.
const FLOOD_BATCHES: u32 = 8;
/// How long it then lets them.
const BREATH: Duration = Duration::from_micros(100);
/// Frames waiting for the device's CPU or for room in the ring.
const QUEUE_LIMIT: usize = 1024;
/// Before a received frame, so that an answer can be built in place.
const HEADROOM_BYTES: usize = net::config::DRIVER_HEADROOM_BYTES;
/// Between finding a device broken and bringing it up anew, so that one that breaks at once does
/// not take the CPU.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Who gets what the device receives; the network's interface, or a test.
pub trait Receiver: 'static {
    /// A frame came.
    fn input(&self, packet: Packet);
    /// The link came or went.
    fn link_changed(&self, up: bool);
}

impl Receiver for net::Interface {
    fn input(&self, packet: Packet) {
        self.input(packet);
    }

    fn link_changed(&self, _up: bool) {
        // The interface asks the device.
        self.link_changed();
    }
}

/// What the interrupt handlers signal, one for each MSI-X vector.
#[derive(Debug, Default)]
pub struct Events {
    /// The configuration changed.
    pub config: Event,
    /// Frames came.
    pub receive: Event,
    /// There is room to send again.
    pub transmit: Event,
}

/// What every CPU may read of the device.
struct Status {
    mac: [u8; 6],
    mtu: u16,
    link_up: AtomicBool,
    /// Frames between [`net::Device::transmit`] and the ring.
    queued: AtomicUsize,
    queue_full: AtomicU64,
    no_device: AtomicU64,
    /// A copy of [`NetCounters`], written by the device's CPU.
    counters: [AtomicU64; NetCounters::COUNT],
}

/// The device on its own CPU.
struct Core<T> {
    /// `None` while it is brought up anew, or after that has failed.
    net: RefCell<Option<VirtioNet<T>>>,
    dma: Arc<dyn Dma>,
    vectors: Vectors,
    events: Arc<Events>,
    status: Arc<Status>,
}

/// A network device that is up; [`start`](Self::start) it to have it driven.
pub struct Vtnet<T: Transport + 'static> {
    core: Rc<Core<T>>,
    port: Port<Sender<T>>,
}

impl<T: Transport + 'static> Vtnet<T> {
    /// Brings the device up. Its interrupts should signal `events` already.
    pub fn bring_up(
        transport: T,
        dma: &Arc<dyn Dma>,
        vectors: Vectors,
        events: Arc<Events>,
    ) -> Result<Self, NetSetupError> {
        let net = VirtioNet::new(transport, dma, vectors)?;
        let status = Arc::new(Status {
            mac: net.mac(),
            mtu: net.mtu(),
            link_up: AtomicBool::new(net.link_up()),
            queued: AtomicUsize::new(0),
            queue_full: AtomicU64::new(0),
            no_device: AtomicU64::new(0),
            counters: core::array::from_fn(|_| AtomicU64::new(0)),
        });
        let net = RefCell::new(Some(net));
        let core = Rc::new(Core {
            net,
            dma: dma.clone(),
            vectors,
            events,
            status,
        });
        Ok(Self {
            port: Port::new(Sender(core.clone())),
            core,
        })
    }

    /// The device for the protocols.
    pub fn device(&self) -> VtnetDevice<T> {
        VtnetDevice {
            port: self.port.handle(),
            status: self.core.status.clone(),
        }
    }

    /// Runs the device's threads on this CPU, for good.
    pub fn start(self, receiver: impl Receiver) {
        let receiver = Rc::new(receiver);
        let spawn = |name| Builder::new(name).priority(Priority::INTERRUPT_SUPPORT);
        let core = self.core.clone();
        spawn("vtnet receive")
            .spawn(receive(core, receiver.clone()))
            .detach();
        let core = self.core.clone();
        spawn("vtnet config")
            .spawn(watch_link(core, receiver))
            .detach();
        spawn("vtnet transmit")
            .spawn(transmit(self.core, self.port))
            .detach();
    }
}

impl<T: Transport + 'static> crate::network::NetworkDevice for Vtnet<T> {
    fn driver(&self) -> &'static str {
        "vtnet"
    }

    fn device(&self) -> Arc<dyn net::Device> {
        Arc::new(self.device())
    }

    fn start(self: alloc::boxed::Box<Self>, interface: net::Interface) {
        Vtnet::start(*self, interface);
    }
}

impl<T: Transport> Core<T> {
    /// Runs `body` on the device, unless there is none, and publishes the counters.
    fn with<R>(&self, body: impl FnOnce(&mut VirtioNet<T>) -> R) -> Option<R> {
        let mut net = self.net.borrow_mut();
        let net = net.as_mut()?;
        let result = body(net);
        for (cell, value) in self.status.counters.iter().zip(net.counters().values()) {
            cell.store(value, Ordering::Relaxed);
        }
        Some(result)
    }

    /// Sends a frame, whether or not there is room; what is not sent is counted.
    fn send(&self, packet: &Packet) {
        self.status.queued.fetch_sub(1, Ordering::Relaxed);
        match self.with(|net| net.transmit(packet.data())) {
            Some(Err(TransmitError::Broken(_))) => self.events.receive.signal(),
            Some(_) => {}
            None => {
                self.status.no_device.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Moves received frames into `batch`. `None`: there is no device.
    fn poll(&self, batch: &mut Vec<Packet>) -> Option<Progress> {
        self.with(|net| {
            let progress = net.poll_receive(BATCH, |frame| {
                let mut packet =
                    Packet::allocate(HEADROOM_BYTES, frame.len_bytes()).map_err(|_| NoMemory)?;
                frame.copy_to(&mut packet).map_err(|_| NoMemory)?;
                batch.push(packet);
                Ok(())
            });
            // A broken queue has nothing more; the caller asks whether it is.
            progress.unwrap_or(Progress::Drained)
        })
    }

    /// Resets a broken device and brings it up again; false when that fails.
    async fn restart(&self, receiver: &impl Receiver) -> bool {
        let Some(net) = self.net.take() else {
            return false;
        };
        log::warn!("vtnet: the device broke its rings; resetting it");
        if self.status.link_up.swap(false, Ordering::Relaxed) {
            receiver.link_changed(false);
        }
        let counters = net.counters();
        executor::sleep(RESTART_PAUSE).await;
        let again = net
            .shut_down()
            .map_err(NetSetupError::from)
            .and_then(|transport| VirtioNet::new(transport, &self.dma, self.vectors));
        match again {
            Ok(mut net) => {
                net.set_counters(counters);
                let link_up = net.link_up();
                self.net.replace(Some(net));
                self.status.link_up.store(link_up, Ordering::Relaxed);
                if link_up {
                    receiver.link_changed(true);
                }
                self.events.transmit.signal();
                true
            }
            Err(error) => {
                log::error!("vtnet: the device does not come up again: {error:?}");
                self.events.transmit.signal();
                false
            }
        }
    }
}

async fn receive<T: Transport>(core: Rc<Core<T>>, receiver: Rc<impl Receiver>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut batches = 0_u32;
    loop {
        let progress = core.poll(&mut batch);
        for packet in batch.drain(..) {
            receiver.input(packet);
        }
        if core.with(|net| net.is_broken()) == Some(true) {
            if !core.restart(&*receiver).await {
                return;
            }
            continue;
        }
        let more = match progress {
            Some(Progress::More) => true,
            Some(Progress::Drained) => core.with(|net| net.await_frames()) == Some(true),
            None => return,
        };
        batches = if more { batches.wrapping_add(1) } else { 0 };
        if more {
            rest(batches).await;
        } else {
            core.events.receive.wait().await;
        }
    }
}

async fn watch_link<T: Transport>(core: Rc<Core<T>>, receiver: Rc<impl Receiver>) {
    loop {
        core.events.config.wait().await;
        let Some((change, broken)) = core.with(|net| (net.poll_config(), net.is_broken())) else {
            continue;
        };
        if broken {
            core.events.receive.signal();
        } else if let Some(up) = change {
            core.status.link_up.store(up, Ordering::Relaxed);
            receiver.link_changed(up);
            // A frame that waits for room is now to be dropped, or can go.
            core.events.transmit.signal();
        }
    }
}

/// Serves frames that could not go at once: from other CPUs, or with the ring full.
async fn transmit<T: Transport + 'static>(core: Rc<Core<T>>, port: Port<Sender<T>>) {
    let (mut since_flush, mut batches) = (0, 0_u32);
    loop {
        let work = port.receive().await;
        while core.with(|net| net.is_stalled()) == Some(true) {
            core.with(|net| net.flush());
            if core.with(|net| net.await_room()) == Some(false) {
                core.events.transmit.wait().await;
            }
        }
        core.send(&work.message().0);
        work.reply(());
        since_flush += 1;
        let emptied = port.queued() == 0;
        if emptied || since_flush == BATCH {
            core.with(|net| net.flush());
            since_flush = 0;
            batches = if emptied { 0 } else { batches.wrapping_add(1) };
            rest(batches).await;
        }
    }
}

/// Between two batches: lets others run; those of low priority, too, now and then in a flood.
async fn rest(batches: u32) {
    if batches > 0 && batches.is_multiple_of(FLOOD_BATCHES) {
        executor::sleep(BREATH).await;
    } else {
        executor::yield_now().await;
    }
}

/// A frame to send.
struct Transmit(Packet);

impl Message for Transmit {
    type Reply = ();
}

/// The server of a device's port.
struct Sender<T>(Rc<Core<T>>);

impl<T: Transport + 'static> Server for Sender<T> {
    type Work = Pending<Transmit>;
}

impl<T: Transport + 'static> Serve<Transmit> for Sender<T> {
    fn put(&self, message: Transmit) -> Put<Transmit> {
        if self.0.with(|net| net.is_stalled()) == Some(true) {
            return Put::Later(message);
        }
        self.0.send(&message.0);
        self.0.with(|net| net.flush());
        Put::Done(())
    }

    fn queue(pending: Pending<Transmit>) -> Pending<Transmit> {
        pending
    }
}

/// A `vtnet` as [`net::Device`].
pub struct VtnetDevice<T: Transport + 'static> {
    port: PortRef<Sender<T>>,
    status: Arc<Status>,
}

impl<T: Transport + 'static> VtnetDevice<T> {
    /// All counters of the device, and the drops before it (queue full, no device).
    fn counters(&self) -> (NetCounters, u64, u64) {
        let status = &self.status;
        let values = core::array::from_fn(|at| status.counters[at].load(Ordering::Relaxed));
        let queue_full = status.queue_full.load(Ordering::Relaxed);
        (
            NetCounters::from_values(values),
            queue_full,
            status.no_device.load(Ordering::Relaxed),
        )
    }
}

impl<T: Transport + 'static> net::Device for VtnetDevice<T> {
    fn mac(&self) -> MacAddress {
        MacAddress(self.status.mac)
    }

    fn mtu_bytes(&self) -> u16 {
        self.status.mtu
    }

    fn link_up(&self) -> bool {
        self.status.link_up.load(Ordering::Relaxed)
    }

    fn transmit(&self, packet: Packet) {
        if self.status.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_LIMIT {
            self.status.queued.fetch_sub(1, Ordering::Relaxed);
            self.status.queue_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.port.post(Transmit(packet));
    }

    fn each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        let (counters, queue_full, no_device) = self.counters();
        for (text, value) in NetCounters::TEXTS.into_iter().zip(counters.values()) {
            show(text, value);
        }
        show("output dropped: too many wait for the device", queue_full);
        show("output dropped: the device is brought up anew", no_device);
    }

    fn statistics(&self) -> DeviceStatistics {
        let (counters, queue_full, no_device) = self.counters();
        DeviceStatistics {
            received_packets: counters.received_frames,
            received_bytes: counters.received_bytes,
            received_drops: counters.receive_drops(),
            sent_packets: counters.transmitted_frames,
            sent_bytes: counters.transmitted_bytes,
            sent_drops: counters.transmit_drops() + queue_full + no_device,
        }
    }
}

#[cfg(test)]
mod tests;
