//! The output of a virtio console's first port: a byte pipe to the host for bulk data.
//!
//! [`VirtioConsole::write`] copies what fits into the ring and returns; nothing waits, and no
//! interrupt is ever asked for, because each write takes back what the device has finished. The
//! trace stream goes through here: at 64 KiB a piece it is a thousand times faster than a UART.
//! Without MULTIPORT there is exactly one port and no control queue; input is left to the UART.
//! Source: VIRTIO 1.2, 5.3.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::queue::{Direction, QueueError, QueueOptions, Segment, SetupError, SplitQueue};
use super::transport::{self, Transport, TransportError, feature};
use crate::drivers::dma::Dma;

/// The virtio type of a console.
pub const DEVICE_TYPE: u16 = 3;

const TRANSMIT_QUEUE: u16 = 1;
const BUFFER_BYTES: usize = 4096;
/// 64 buffers of 4 KiB: a quarter of a megabyte may be under way.
const MAX_QUEUE_SIZE: u16 = 64;

/// Why a console could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleSetupError {
    /// The device is of another type.
    WrongType(u16),
    /// The device and we do not agree.
    Transport(TransportError),
    /// The queue could not be made.
    Queue(SetupError),
}

impl From<TransportError> for ConsoleSetupError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// A console that is up.
pub struct VirtioConsole<T> {
    transport: T,
    /// Tokens are buffer numbers.
    queue: SplitQueue<u16>,
    free: Vec<u16>,
}

impl<T: Transport> VirtioConsole<T> {
    /// Brings the device up.
    pub fn new(mut transport: T, dma: &Arc<dyn Dma>) -> Result<Self, ConsoleSetupError> {
        if transport.device_type() != DEVICE_TYPE {
            return Err(ConsoleSetupError::WrongType(transport.device_type()));
        }
        let features =
            transport::negotiate(&mut transport, feature::EVENT_IDX, feature::VERSION_1)?;
        let options = QueueOptions {
            index: TRANSMIT_QUEUE,
            max_size: MAX_QUEUE_SIZE,
            buffer_bytes: BUFFER_BYTES,
            event_idx: features & feature::EVENT_IDX != 0,
            vector: None,
        };
        let mut queue =
            SplitQueue::create(&mut transport, dma, options).map_err(ConsoleSetupError::Queue)?;
        queue.suppress_interrupts();
        transport::finish(&mut transport);
        Ok(Self {
            transport,
            free: (0..queue.size()).rev().collect(),
            queue,
        })
    }

    /// Sends as much of `bytes` as there is room for, and says how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, QueueError> {
        self.reclaim()?;
        let mut taken = 0;
        for part in bytes.chunks(BUFFER_BYTES) {
            let Some(buffer) = self.free.pop() else { break };
            let offset = usize::from(buffer) * BUFFER_BYTES;
            let segment = Segment {
                offset,
                len_bytes: part.len() as u32,
                direction: Direction::ToDevice,
            };
            let copied = self.queue.memory().write(offset, part);
            if copied.is_err() || self.queue.add(&[segment], buffer).is_err() {
                self.free.push(buffer);
                break;
            }
            taken += part.len();
        }
        if self.queue.should_notify() {
            self.transport.notify(TRANSMIT_QUEUE);
        }
        Ok(taken)
    }

    /// Whether everything written has reached the host.
    pub fn is_drained(&mut self) -> Result<bool, QueueError> {
        self.reclaim()?;
        Ok(self.queue.requests() == 0)
    }

    fn reclaim(&mut self) -> Result<(), QueueError> {
        while let Some(used) = self.queue.pop_used()? {
            self.free.push(used.token);
        }
        // The event index stands still while we pop: set it behind the device again, or it would
        // interrupt (or try to) after a wrap.
        self.queue.suppress_interrupts();
        Ok(())
    }

    /// Resets the device and frees its memory; see [`super::net::VirtioNet::shut_down`].
    pub fn shut_down(mut self) -> Result<T, TransportError> {
        let proof = self.transport.reset()?;
        self.queue.release(&proof);
        Ok(self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeDevice, FakeOptions};
    use super::*;
    use crate::drivers::dma::fake::FakeDma;
    use alloc::vec;

    fn console(dma: &FakeDma) -> (FakeDevice, VirtioConsole<impl Transport>) {
        let device = FakeDevice::new(
            dma,
            FakeOptions {
                device_type: 3,
                queue_sizes: vec![64, 4],
                ..Default::default()
            },
        );
        let console = VirtioConsole::new(device.transport(), &dma.handle()).unwrap();
        (device, console)
    }

    #[test]
    fn bytes_arrive_in_order_and_a_full_ring_takes_less() {
        let dma = FakeDma::new();
        let (device, mut console) = console(&dma);
        let stream: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        let mut sent = console.write(&stream).unwrap();
        assert_eq!(sent, 4 * BUFFER_BYTES);
        assert_eq!(console.write(b"x"), Ok(0), "full");
        assert_eq!(device.doorbells(1), 1);
        let mut arrived = Vec::new();
        while arrived.len() < stream.len() {
            while let Some(chain) = device.take(1) {
                arrived.extend(device.read_chain(&chain));
                device.complete(1, chain.head, 0);
            }
            sent += console.write(&stream[sent..]).unwrap();
        }
        assert_eq!(arrived, stream);
        assert_eq!(console.is_drained(), Ok(true));
        assert_eq!(device.interrupts(1), 0);
        assert!(console.shut_down().is_ok());
        assert_eq!(dma.allocated_bytes(), 0);
    }

    #[test]
    fn a_broken_device_is_reported() {
        let dma = FakeDma::new();
        let (device, mut console) = console(&dma);
        console.write(b"hello").unwrap();
        device.set_used_index(1, 7);
        assert_eq!(console.write(b"again"), Err(QueueError::IndexJump));
    }
}
