//! A virtio network device, sans-I/O: told of interrupts, polled, never waiting.
//!
//! [`VirtioNet`] keeps the receive ring full, hands out received frames in bounded batches
//! ([`poll_receive`](VirtioNet::poll_receive)), queues frames to send ([`transmit`], then one
//! [`flush`] for many) and watches the link. It belongs to the CPU its interrupts go to; the threads
//! around it are in [`crate::drivers::vtnet`]. No thread waits for a transmission: the frame is
//! copied into the ring's own memory, so the packet is free at once, and transmit interrupts stay
//! off except while a sender waits for room.
//!
//! We copy frames (330 ns for 1500 bytes under emulation) instead of lending packets to the device.
//! A lent buffer may be changed under a parser that has already checked it, and must outlive a device
//! that never answers; a copied one is ours.
//!
//! Features we leave out, and why: MRG_RXBUF (a frame of our MTU fits one buffer, merging would only
//! add a way to lie), checksum and segmentation offloads (user-mode backends have none), CTRL_VQ
//! (a device without it receives everything, which is what CARP's virtual addresses need).
//! Source: VIRTIO 1.2, 5.1.
//!
//! [`transmit`]: VirtioNet::transmit
//! [`flush`]: VirtioNet::flush

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::queue::{
    AddError, Direction, QueueError, QueueOptions, Segment, SetupError, SplitQueue,
};
use super::transport::{self, Status, Transport, TransportError, feature};
use crate::drivers::dma::{Dma, DmaBuffer, OutOfRange};

mod counters;
pub use counters::NetCounters;

/// The virtio type of a network device.
pub const DEVICE_TYPE: u16 = 1;

const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_STATUS: u64 = 1 << 16;

const CONFIG_MAC: usize = 0;
const CONFIG_STATUS: usize = 6;
const CONFIG_MTU: usize = 10;
const STATUS_LINK_UP: u16 = 1;

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// `struct virtio_net_hdr` of version 1, before each frame; all zero when nothing is offloaded.
const HEADER_BYTES: usize = 12;
const ETHERNET_HEADER_BYTES: usize = 14;
/// Room for one frame with its header: any MTU up to [`MAX_MTU`], with a VLAN tag.
const BUFFER_BYTES: usize = 2048;
const MAX_QUEUE_SIZE: u16 = 256;
const DEFAULT_MTU: u16 = 1500;
/// The largest MTU that a buffer holds: less the headers and 4 bytes of VLAN tag.
pub const MAX_MTU: u16 = (BUFFER_BYTES - HEADER_BYTES - ETHERNET_HEADER_BYTES - 4) as u16;

/// The MSI-X entries a network device uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Configuration (link) changes.
    pub config: u16,
    /// Received frames.
    pub receive: u16,
    /// Room to send again.
    pub transmit: u16,
}

/// Why a device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetSetupError {
    /// The device is of another type.
    WrongType(u16),
    /// The device and we do not agree.
    Transport(TransportError),
    /// A queue could not be made.
    Queue(SetupError),
}

impl From<TransportError> for NetSetupError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<SetupError> for NetSetupError {
    fn from(error: SetupError) -> Self {
        Self::Queue(error)
    }
}

/// Why a frame was not sent. Each has its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitError {
    /// No room: wait for the transmit interrupt after [`VirtioNet::await_room`], or drop.
    RingFull,
    /// Longer than MTU and header.
    TooLong,
    /// Shorter than an Ethernet header.
    TooShort,
    /// The link is down.
    LinkDown,
    /// The device broke the queue.
    Broken(QueueError),
}

/// Why the receiver of a frame did not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "More means that frames wait for which no interrupt will come: poll again"]
pub enum Progress {
    /// The budget was used up; there may be more.
    More,
    /// Nothing is left.
    Drained,
}

/// A received frame, still in the device's memory.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedFrame<'a> {
    memory: &'a DmaBuffer,
    offset: usize,
    len_bytes: usize,
}

impl ReceivedFrame<'_> {
    /// Length of the frame, Ethernet header and all, at least 14.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Copies the frame to the start of `out`, as far as that is long enough.
    pub fn copy_to(&self, out: &mut [u8]) -> Result<(), OutOfRange> {
        let len = self.len_bytes.min(out.len());
        self.memory.read(self.offset, &mut out[..len])
    }
}

/// A network device that is up.
pub struct VirtioNet<T> {
    transport: T,
    /// Tokens are buffer numbers.
    receive: SplitQueue<u16>,
    transmit: SplitQueue<u16>,
    /// Buffers of the transmit queue that are not in flight.
    free: Vec<u16>,
    features: u64,
    mac: [u8; 6],
    mtu: u16,
    link_up: bool,
    needs_reset: bool,
    counters: NetCounters,
}

impl<T: Transport> VirtioNet<T> {
    /// Brings the device up, with its receive ring full.
    pub fn new(
        mut transport: T,
        dma: &Arc<dyn Dma>,
        vectors: Vectors,
    ) -> Result<Self, NetSetupError> {
        if transport.device_type() != DEVICE_TYPE {
            return Err(NetSetupError::WrongType(transport.device_type()));
        }
        let (features, mtu) = agree(&mut transport)?;
        transport.set_config_vector(vectors.config)?;
        let mut mac = [0; 6];
        transport::read_config(&transport, CONFIG_MAC, &mut mac)?;
        let event_idx = features & feature::EVENT_IDX != 0;
        let options = |index, vector| QueueOptions {
            index,
            max_size: MAX_QUEUE_SIZE,
            buffer_bytes: BUFFER_BYTES,
            event_idx,
            vector: Some(vector),
        };
        let receive_options = options(RECEIVE_QUEUE, vectors.receive);
        let receive = SplitQueue::create(&mut transport, dma, receive_options)?;
        let transmit_options = options(TRANSMIT_QUEUE, vectors.transmit);
        let mut transmit = match SplitQueue::create(&mut transport, dma, transmit_options) {
            Ok(queue) => queue,
            Err(error) => {
                receive.release(&transport.reset()?);
                return Err(error.into());
            }
        };
        transmit.suppress_interrupts();
        transport::finish(&mut transport);
        let mut net = Self {
            transport,
            free: (0..transmit.size()).rev().collect(),
            receive,
            transmit,
            features,
            mac,
            mtu,
            link_up: true,
            needs_reset: false,
            counters: NetCounters::default(),
        };
        net.link_up = net.read_link();
        for buffer in 0..net.receive.size() {
            net.offer(buffer);
        }
        net.ring_receive();
        Ok(net)
    }

    /// The device's Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Largest payload of a frame in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the link is up, as of the last [`poll_config`](Self::poll_config).
    pub fn link_up(&self) -> bool {
        self.link_up
    }

    /// The features in force.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// Goes on counting from what the device had counted before it was brought up anew.
    pub fn set_counters(&mut self, counters: NetCounters) {
        self.counters = counters;
    }

    /// Whether a queue is broken or the device has asked for a reset (as of the last
    /// [`poll_config`](Self::poll_config)): shut it down and bring it up anew.
    pub fn is_broken(&self) -> bool {
        self.receive.broken().is_some() || self.transmit.broken().is_some() || self.needs_reset
    }

    /// Whether a frame must wait for room in the ring. Not so when it would be refused anyway.
    pub fn is_stalled(&mut self) -> bool {
        self.free.is_empty() && self.link_up && self.reclaim().is_ok() && self.free.is_empty()
    }

    /// Hands at most `budget` received frames to `sink` and gives their buffers back to the device.
    ///
    /// Receive interrupts are off from here until [`await_frames`](Self::await_frames).
    pub fn poll_receive(
        &mut self,
        budget: usize,
        mut sink: impl FnMut(ReceivedFrame<'_>) -> Result<(), NoMemory>,
    ) -> Result<Progress, QueueError> {
        let was_broken = self.receive.broken().is_some();
        self.receive.suppress_interrupts();
        let mut progress = Ok(Progress::More);
        for _ in 0..budget {
            match self.receive.pop_used() {
                Ok(Some(used)) => {
                    self.deliver(used.token, used.written_bytes as usize, &mut sink);
                    self.offer(used.token);
                }
                Ok(None) => {
                    progress = Ok(Progress::Drained);
                    break;
                }
                Err(error) => {
                    self.counters.queue_errors += u64::from(!was_broken);
                    progress = Err(error);
                    break;
                }
            }
        }
        self.ring_receive();
        progress
    }

    fn deliver(
        &mut self,
        buffer: u16,
        written: usize,
        sink: &mut impl FnMut(ReceivedFrame<'_>) -> Result<(), NoMemory>,
    ) {
        if written < HEADER_BYTES + ETHERNET_HEADER_BYTES {
            self.counters.receive_too_short += 1;
            return;
        }
        let frame = ReceivedFrame {
            memory: self.receive.memory(),
            offset: usize::from(buffer) * BUFFER_BYTES + HEADER_BYTES,
            len_bytes: written - HEADER_BYTES,
        };
        match sink(frame) {
            Ok(()) => {
                self.counters.received_frames += 1;
                self.counters.received_bytes += frame.len_bytes as u64;
            }
            Err(NoMemory) => self.counters.receive_no_memory += 1,
        }
    }

    /// Gives a receive buffer to the device. There is a descriptor for each buffer, so this fails
    /// only on a broken queue, where the buffer does not matter any more.
    fn offer(&mut self, buffer: u16) {
        let segment = Segment {
            offset: usize::from(buffer) * BUFFER_BYTES,
            len_bytes: BUFFER_BYTES as u32,
            direction: Direction::FromDevice,
        };
        let _ = self.receive.add(&[segment], buffer);
    }

    /// A device that has run dry sleeps until this doorbell: never refill without it.
    fn ring_receive(&mut self) {
        if self.receive.should_notify() {
            self.counters.doorbells += 1;
            self.transport.notify(RECEIVE_QUEUE);
        }
    }

    /// Turns receive interrupts on. `true`: frames have come meanwhile; poll instead of waiting.
    #[must_use = "true means that frames wait: poll again instead of sleeping"]
    pub fn await_frames(&mut self) -> bool {
        self.receive.enable_interrupts()
    }

    /// Queues a frame (Ethernet header first) for sending; [`flush`](Self::flush) tells the device.
    pub fn transmit(&mut self, frame: &[u8]) -> Result<(), TransmitError> {
        let result = self.try_transmit(frame);
        let counters = &mut self.counters;
        match result {
            Ok(()) => {
                counters.transmitted_frames += 1;
                counters.transmitted_bytes += frame.len() as u64;
            }
            Err(TransmitError::RingFull) => counters.transmit_ring_full += 1,
            Err(TransmitError::TooLong) => counters.transmit_too_long += 1,
            Err(TransmitError::TooShort) => counters.transmit_too_short += 1,
            Err(TransmitError::LinkDown) => counters.transmit_link_down += 1,
            Err(TransmitError::Broken(_)) => counters.transmit_broken += 1,
        }
        result
    }

    fn try_transmit(&mut self, frame: &[u8]) -> Result<(), TransmitError> {
        if frame.len() < ETHERNET_HEADER_BYTES {
            return Err(TransmitError::TooShort);
        }
        if frame.len() > usize::from(self.mtu) + ETHERNET_HEADER_BYTES + 4 {
            return Err(TransmitError::TooLong);
        }
        if !self.link_up {
            return Err(TransmitError::LinkDown);
        }
        if self.free.is_empty() {
            self.reclaim().map_err(TransmitError::Broken)?;
        }
        let buffer = self.free.pop().ok_or(TransmitError::RingFull)?;
        let offset = usize::from(buffer) * BUFFER_BYTES;
        // The header before the frame was zeroed with the memory and is never written: no offload.
        let written = self.transmit.memory().write(offset + HEADER_BYTES, frame);
        debug_assert!(written.is_ok());
        let segment = Segment {
            offset,
            len_bytes: (HEADER_BYTES + frame.len()) as u32,
            direction: Direction::ToDevice,
        };
        self.transmit.add(&[segment], buffer).map_err(|error| {
            self.free.push(buffer);
            match error {
                AddError::Broken(error) => TransmitError::Broken(error),
                AddError::Full | AddError::BadSegment => TransmitError::RingFull,
            }
        })
    }

    /// Takes back the buffers of frames that have been sent.
    fn reclaim(&mut self) -> Result<(), QueueError> {
        let was_broken = self.transmit.broken().is_some();
        loop {
            match self.transmit.pop_used() {
                Ok(Some(used)) => self.free.push(used.token),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.counters.queue_errors += u64::from(!was_broken);
                    return Err(error);
                }
            }
        }
    }

    /// Tells the device of frames queued since the last call, if it wants to be told.
    pub fn flush(&mut self) {
        if self.transmit.should_notify() {
            self.counters.doorbells += 1;
            self.transport.notify(TRANSMIT_QUEUE);
        }
    }

    /// After [`TransmitError::RingFull`]: asks for a transmit interrupt. `true`: there is room
    /// already (or the device is broken), so try again instead of waiting.
    #[must_use = "true means that there is room: transmit instead of sleeping"]
    pub fn await_room(&mut self) -> bool {
        let ready = self.transmit.enable_interrupts();
        let reclaimed = self.reclaim();
        if ready || reclaimed.is_err() || !self.free.is_empty() {
            self.transmit.suppress_interrupts();
            return true;
        }
        false
    }

    /// On a configuration interrupt: reads the link again, and says so if it changed.
    pub fn poll_config(&mut self) -> Option<bool> {
        self.needs_reset = self.transport.status().contains(Status::NEEDS_RESET);
        let link_up = self.read_link();
        if core::mem::replace(&mut self.link_up, link_up) == link_up {
            return None;
        }
        self.counters.link_changes += 1;
        Some(link_up)
    }

    /// A device in need of a reset has no link; one that cannot tell its link has one.
    fn read_link(&self) -> bool {
        if self.needs_reset {
            return false;
        }
        if self.features & FEATURE_STATUS == 0 {
            return true;
        }
        let mut status = [0; 2];
        transport::read_config(&self.transport, CONFIG_STATUS, &mut status).is_ok()
            && u16::from_le_bytes(status) & STATUS_LINK_UP != 0
    }

    /// Resets the device and frees its memory; the transport can bring it up again. If the device
    /// does not confirm the reset its memory is lost on purpose: it may still be written to.
    pub fn shut_down(mut self) -> Result<T, TransportError> {
        let proof = self.transport.reset()?;
        self.receive.release(&proof);
        self.transmit.release(&proof);
        Ok(self.transport)
    }
}

/// Agrees on features and the MTU.
fn agree(transport: &mut impl Transport) -> Result<(u64, u16), TransportError> {
    let required = feature::VERSION_1 | FEATURE_MAC;
    let wanted = feature::EVENT_IDX | FEATURE_STATUS;
    let features = transport::negotiate(transport, wanted | FEATURE_MTU, required)?;
    if features & FEATURE_MTU == 0 {
        return Ok((features, DEFAULT_MTU));
    }
    let mut mtu = [0; 2];
    transport::read_config(transport, CONFIG_MTU, &mut mtu)?;
    match u16::from_le_bytes(mtu) {
        mtu @ 68..=MAX_MTU => Ok((features, mtu)),
        // Who takes the feature must take frames of that size (5.1.5): leave it.
        _ => Ok((
            transport::negotiate(transport, wanted, required)?,
            DEFAULT_MTU,
        )),
    }
}

#[cfg(test)]
mod tests;
