//! The end of a simulated network cable: two queues, and nothing that moves by itself.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use executor::Event;

use super::lock;
use crate::drivers::vke::{Cable, NotSent};
use crate::platform::arena::abroad;

extern crate std;
use std::sync::Mutex;

/// Frames that a card holds for its driver; more are lost, as on hardware.
const RECEIVE_LIMIT: usize = 1024;

/// One end of a cable; the simulator has the other in its hands.
pub struct SimulatedCable {
    mac: [u8; 6],
    event: Event,
    connected: AtomicBool,
    received: Mutex<VecDeque<Vec<u8>>>,
    waiting: AtomicU64,
    sent: Mutex<Vec<Vec<u8>>>,
    has_sent: AtomicBool,
}

impl SimulatedCable {
    /// A cable with something at its other end, in a card of this address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            event: Event::new(),
            connected: AtomicBool::new(true),
            received: Mutex::default(),
            waiting: AtomicU64::new(0),
            sent: Mutex::default(),
            has_sent: AtomicBool::new(false),
        }
    }

    /// Hands a frame to the card. False: it holds no more.
    pub fn deliver(&self, frame: &[u8]) -> bool {
        let mut received = lock(&self.received);
        if received.len() >= RECEIVE_LIMIT {
            return false;
        }
        received.push_back(frame.to_vec());
        self.waiting.store(received.len() as u64, Ordering::Relaxed);
        drop(received);
        self.event.signal();
        true
    }

    /// Moves what the card has sent to the end of `frames`.
    pub fn take_sent(&self, frames: &mut Vec<Vec<u8>>) {
        if self.has_sent.load(Ordering::Relaxed) {
            self.has_sent.store(false, Ordering::Relaxed);
            frames.append(&mut lock(&self.sent));
        }
    }

    /// Connects the other end or takes it out.
    pub fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Ordering::Relaxed) != connected {
            self.event.signal();
        }
    }
}

impl Cable for SimulatedCable {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn event(&self) -> &Event {
        &self.event
    }

    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut received = lock(&self.received);
        let frame = received.pop_front();
        self.waiting.store(received.len() as u64, Ordering::Relaxed);
        drop(received);
        let Some(frame) = frame else { return false };
        take(&frame);
        true
    }

    fn send(&self, frame: &[u8]) -> Result<(), NotSent> {
        if !self.link_up() {
            return Err(NotSent::Unplugged);
        }
        abroad(|| lock(&self.sent).push(frame.to_vec()));
        self.has_sent.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) {}
}
