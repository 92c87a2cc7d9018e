//! An asynchronous split virtqueue: requests go in, completions come out later, nothing blocks.
//!
//! [`SplitQueue`] owns its rings and the memory of its buffers, and maps each request in flight to a
//! token of the driver's. The driver calls [`add`](SplitQueue::add), then rings the doorbell if
//! [`should_notify`](SplitQueue::should_notify); on an interrupt it calls
//! [`pop_used`](SplitQueue::pop_used) until `None`. No indirect descriptors: our requests are one
//! or two segments long, for which a table of its own costs more than it saves.
//!
//! **Waiting without losing a wake.** While it works, a driver suppresses interrupts; when it finds
//! the ring empty it calls [`enable_interrupts`](SplitQueue::enable_interrupts). A completion
//! between its last look and that call raises no interrupt:
//!
//! ```text
//!   driver                               device
//!   pop_used() -> None
//!                                        used.idx = 8; interrupts are off: silent
//!   used_event = 7
//!   full fence
//!   used.idx is 8 and not 7: true  --->  (otherwise: asleep for good)
//! ```
//!
//! so it looks once more and answers whether there is work. `true` means: poll again, do not sleep.
//!
//! **A device is not trusted.** The state that decides anything (free list, chains in flight,
//! indices) is in our own memory. A used element that is out of range, not in flight, or longer
//! than the buffers it names, or an index that runs ahead, breaks the queue: it is counted, every
//! later call says [`QueueError`], and the driver resets the device. To go on would mean guessing
//! which buffers the device still writes to. For the same reason the memory is freed only against a
//! [`ResetProof`]; a queue dropped without one leaks it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;

use super::ring::{self, Descriptor, RingMemory};
use super::transport::{QueueSetup, ResetProof, Transport, TransportError};
use crate::drivers::dma::{Dma, DmaBuffer};

/// Who writes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// A piece of the queue's buffer memory, as part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in [`SplitQueue::memory`].
    pub offset: usize,
    /// Length in bytes, not zero.
    pub len_bytes: u32,
    /// Who writes it. Segments the device reads come before those it writes (2.7.4.2).
    pub direction: Direction,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// No free descriptors: wait for completions.
    Full,
    /// The segments are empty, outside the memory or in the wrong order: a bug in the driver.
    BadSegment,
    /// The device broke the queue.
    Broken(QueueError),
}

/// What a device did that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The used index ran ahead of what is in flight.
    IndexJump,
    /// A used element names a descriptor that does not exist.
    IdOutOfRange,
    /// A used element names no request in flight: twice completed, or never made.
    NotInFlight,
    /// More bytes "written" than the request had room for.
    LengthOverBuffer,
}

/// A finished request.
#[derive(Debug, PartialEq, Eq)]
pub struct Used<T> {
    /// What [`SplitQueue::add`] was given.
    pub token: T,
    /// Bytes the device says it wrote; at most the request's writable length.
    pub written_bytes: u32,
}

/// Why a queue could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The device has no such queue.
    Absent,
    /// No contiguous memory.
    NoMemory,
    /// The transport refused.
    Transport(TransportError),
}

impl From<TransportError> for SetupError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// How to make a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Number of the queue on the device.
    pub index: u16,
    /// At most so many entries (the device may have fewer).
    pub max_size: u16,
    /// Bytes of buffer memory for each entry.
    pub buffer_bytes: usize,
    /// Whether EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// The MSI-X table entry that completions raise.
    pub vector: Option<u16>,
}

struct InFlight<T> {
    token: T,
    descriptors: u16,
    writable_bytes: u32,
}

/// A virtqueue of version 1, split format.
pub struct SplitQueue<T> {
    ring: ManuallyDrop<RingMemory>,
    memory: ManuallyDrop<DmaBuffer>,
    index: u16,
    size: u16,
    event_idx: bool,
    /// Requests by head descriptor; what the device may complete.
    in_flight: Box<[Option<InFlight<T>>]>,
    /// For a free descriptor the next free one, for a used one the next of its chain. Ours: the
    /// table in shared memory is written and never read.
    next: Box<[u16]>,
    free_head: u16,
    free_count: u16,
    requests: u16,
    available_index: u16,
    /// `available_index` when the doorbell was last considered.
    notified_index: u16,
    used_index: u16,
    broken: Option<QueueError>,
}

impl<T> SplitQueue<T> {
    /// Allocates the queue and enables it on the device.
    pub fn create(
        transport: &mut impl Transport,
        dma: &Arc<dyn Dma>,
        options: QueueOptions,
    ) -> Result<Self, SetupError> {
        let offered = transport
            .max_queue_size(options.index)
            .min(options.max_size)
            .min(1 << 15);
        if offered == 0 {
            return Err(SetupError::Absent);
        }
        let size = 1 << offered.ilog2();
        let buffer_bytes = options.buffer_bytes * usize::from(size);
        let ring = RingMemory::allocate(dma, size).ok_or(SetupError::NoMemory)?;
        let memory = DmaBuffer::allocate(dma, buffer_bytes).ok_or(SetupError::NoMemory)?;
        // From here on the device may touch the memory, whatever the transport answers.
        let queue = Self {
            ring: ManuallyDrop::new(ring),
            memory: ManuallyDrop::new(memory),
            index: options.index,
            size,
            event_idx: options.event_idx,
            in_flight: (0..size).map(|_| None).collect(),
            next: (1..=size).collect::<Vec<_>>().into_boxed_slice(),
            free_head: 0,
            free_count: size,
            requests: 0,
            available_index: 0,
            notified_index: 0,
            used_index: 0,
            broken: None,
        };
        transport.enable_queue(QueueSetup {
            index: options.index,
            size,
            descriptors_address: queue.ring.descriptors_address(),
            available_address: queue.ring.available_address(),
            used_address: queue.ring.used_address(),
            vector: options.vector,
        })?;
        Ok(queue)
    }

    /// The queue's number on its device, for [`Transport::notify`].
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors free for new requests.
    pub fn free_descriptors(&self) -> u16 {
        self.free_count
    }

    /// Requests in flight.
    pub fn requests(&self) -> u16 {
        self.requests
    }

    /// The memory that segments lie in.
    pub fn memory(&self) -> &DmaBuffer {
        &self.memory
    }

    /// What broke the queue, if anything.
    pub fn broken(&self) -> Option<QueueError> {
        self.broken
    }

    /// Hands a request to the device; `token` comes back from [`pop_used`](Self::pop_used).
    ///
    /// The caller rings the doorbell afterwards, once for any number of requests, if
    /// [`should_notify`](Self::should_notify).
    pub fn add(&mut self, segments: &[Segment], token: T) -> Result<(), AddError> {
        if let Some(error) = self.broken {
            return Err(AddError::Broken(error));
        }
        let writable_bytes = self.check(segments)?;
        if segments.len() > usize::from(self.free_count) {
            return Err(AddError::Full);
        }
        let head = self.free_head;
        for (position, segment) in segments.iter().enumerate() {
            let index = self.free_head;
            let next = self.next[usize::from(index)];
            let mut flags = 0;
            if segment.direction == Direction::FromDevice {
                flags |= ring::DESCRIPTOR_WRITE;
            }
            if position + 1 < segments.len() {
                flags |= ring::DESCRIPTOR_NEXT;
            }
            self.ring.write_descriptor(
                index,
                Descriptor {
                    address: self.memory.physical_address(segment.offset),
                    len_bytes: segment.len_bytes,
                    flags,
                    next: if flags & ring::DESCRIPTOR_NEXT != 0 {
                        next
                    } else {
                        0
                    },
                },
            );
            self.free_head = next;
        }
        let descriptors = segments.len() as u16;
        self.free_count -= descriptors;
        self.requests += 1;
        self.in_flight[usize::from(head)] = Some(InFlight {
            token,
            descriptors,
            writable_bytes,
        });
        self.ring.write_available(self.available_index, head);
        self.available_index = self.available_index.wrapping_add(1);
        self.ring.publish(self.available_index);
        Ok(())
    }

    /// Checks the segments and sums up what the device may write.
    fn check(&self, segments: &[Segment]) -> Result<u32, AddError> {
        let mut writable_bytes = 0_u32;
        let mut writing = false;
        for segment in segments {
            let end = segment.offset.checked_add(segment.len_bytes as usize);
            let inside = end.is_some_and(|end| end <= self.memory.len());
            let writes = segment.direction == Direction::FromDevice;
            if segment.len_bytes == 0 || !inside || (writing && !writes) {
                return Err(AddError::BadSegment);
            }
            writing = writes;
            if writes {
                writable_bytes = writable_bytes
                    .checked_add(segment.len_bytes)
                    .ok_or(AddError::BadSegment)?;
            }
        }
        if segments.is_empty() {
            Err(AddError::BadSegment)
        } else {
            Ok(writable_bytes)
        }
    }

    /// Whether the doorbell must be rung for the requests added since it was last asked.
    ///
    /// Ask once after a batch of `add`, never skip it: a device that ran dry and got a refill without
    /// a doorbell waits for ever.
    #[must_use = "an unrung doorbell stalls the device: call Transport::notify if true"]
    pub fn should_notify(&mut self) -> bool {
        let (old, new) = (self.notified_index, self.available_index);
        self.notified_index = new;
        if old == new || self.broken.is_some() {
            return false;
        }
        self.ring.full_fence();
        if self.event_idx {
            needs_event(self.ring.available_event(), new, old)
        } else {
            self.ring.used_flags() & ring::USED_NO_NOTIFY == 0
        }
    }

    /// The next finished request, in the device's order.
    pub fn pop_used(&mut self) -> Result<Option<Used<T>>, QueueError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let pending = self.ring.used_index().wrapping_sub(self.used_index);
        if pending == 0 {
            return Ok(None);
        }
        if pending > self.requests {
            return Err(self.break_down(QueueError::IndexJump));
        }
        let (id, written_bytes) = self.ring.used_element(self.used_index);
        if id >= u32::from(self.size) {
            return Err(self.break_down(QueueError::IdOutOfRange));
        }
        let head = id as u16;
        let Some(request) = self.in_flight[usize::from(head)].take() else {
            return Err(self.break_down(QueueError::NotInFlight));
        };
        if written_bytes > request.writable_bytes {
            return Err(self.break_down(QueueError::LengthOverBuffer));
        }
        self.used_index = self.used_index.wrapping_add(1);
        self.recycle(head, request.descriptors);
        self.requests -= 1;
        Ok(Some(Used {
            token: request.token,
            written_bytes,
        }))
    }

    fn recycle(&mut self, head: u16, descriptors: u16) {
        let mut last = head;
        for _ in 1..descriptors {
            last = self.next[usize::from(last)];
        }
        self.next[usize::from(last)] = self.free_head;
        self.free_head = head;
        self.free_count += descriptors;
    }

    fn break_down(&mut self, error: QueueError) -> QueueError {
        self.broken = Some(error);
        error
    }

    /// Asks the device for no interrupts while we poll. A hint: some may still come.
    pub fn suppress_interrupts(&mut self) {
        if self.event_idx {
            // An index that the device has just passed: 65,535 completions away.
            self.ring.set_used_event(self.used_index.wrapping_sub(1));
        } else {
            self.ring.set_available_flags(ring::AVAILABLE_NO_INTERRUPT);
        }
    }

    /// Asks for an interrupt at the next completion, and looks once more.
    ///
    /// `true`: there are completions already, for which no interrupt may come.
    #[must_use = "true means that completions wait: poll again instead of sleeping"]
    pub fn enable_interrupts(&mut self) -> bool {
        if self.event_idx {
            self.ring.set_used_event(self.used_index);
        } else {
            self.ring.set_available_flags(0);
        }
        self.ring.full_fence();
        self.broken.is_none() && self.ring.used_index() != self.used_index
    }

    /// Frees the memory, now that the device has been reset and touches it no more.
    pub fn release(mut self, _proof: &ResetProof) {
        // SAFETY: `self` is consumed and has no destructor of its own, so neither field is used
        // or dropped again.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.memory);
        }
    }
}

/// Whether going from `old` to `new` passes `event` (2.7.10).
fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) mod tests;
