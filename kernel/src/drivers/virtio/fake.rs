//! A virtio device for host tests, on the other side of the same memory.
//!
//! [`FakeDevice`] walks the real rings by physical address, as hardware would, and panics when the
//! *driver* breaks the specification (bad descriptor, loop, memory it does not own). Tests move it
//! step by step ([`take`](FakeDevice::take), [`complete`](FakeDevice::complete)), which places a
//! completion exactly in the window under test; [`claim`](FakeDevice::claim) writes lies.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;
use std::sync::{Condvar, Mutex};

use super::transport::{QueueSetup, ResetProof, Status, Transport, TransportError, feature};
use crate::drivers::dma::fake::FakeDma;

/// What the device is like.
#[derive(Clone)]
pub(crate) struct FakeOptions {
    pub(crate) device_type: u16,
    pub(crate) features: u64,
    pub(crate) queue_sizes: Vec<u16>,
    pub(crate) config: Vec<u8>,
    pub(crate) vectors: u16,
    pub(crate) refuse_features: bool,
    pub(crate) stuck_in_reset: bool,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            device_type: 1,
            features: feature::VERSION_1 | feature::EVENT_IDX,
            queue_sizes: vec![8, 8],
            config: Vec::new(),
            vectors: 4,
            refuse_features: false,
            stuck_in_reset: false,
        }
    }
}

/// A request as the device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FakeChain {
    pub(crate) head: u16,
    /// Descriptor numbers, in chain order.
    pub(crate) descriptors: Vec<u16>,
    pub(crate) readable: Vec<(u64, u32)>,
    pub(crate) writable: Vec<(u64, u32)>,
}

#[derive(Default)]
struct FakeQueue {
    setup: Option<QueueSetup>,
    taken: u16,
    used: u16,
    /// Used index when an interrupt was last considered.
    signalled: u16,
    doorbells: u64,
    interrupts: u64,
}

struct State {
    options: FakeOptions,
    status: Status,
    driver_features: u64,
    generation: u32,
    config_vector: Option<u16>,
    next_config: Option<Vec<u8>>,
    unstable: bool,
    queues: Vec<FakeQueue>,
}

type InterruptHook = Box<dyn Fn(u16) + Send>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    hook: Mutex<Option<InterruptHook>>,
}

/// The device; clones are the same device.
#[derive(Clone)]
pub(crate) struct FakeDevice {
    shared: Arc<Shared>,
    dma: FakeDma,
}

impl FakeDevice {
    pub(crate) fn new(dma: &FakeDma, options: FakeOptions) -> Self {
        let queues = options
            .queue_sizes
            .iter()
            .map(|_| FakeQueue::default())
            .collect();
        let state = State {
            options,
            status: Status::empty(),
            driver_features: 0,
            generation: 0,
            config_vector: None,
            next_config: None,
            unstable: false,
            queues,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            hook: Mutex::new(None),
        });
        Self {
            shared,
            dma: dma.clone(),
        }
    }

    /// The driver's end.
    pub(crate) fn transport(&self) -> FakeTransport {
        FakeTransport {
            device: self.clone(),
            broken_event: None,
        }
    }

    fn with<R>(&self, body: impl FnOnce(&mut State) -> R) -> R {
        body(&mut self.shared.state.lock().unwrap())
    }

    pub(crate) fn driver_features(&self) -> u64 {
        self.with(|state| state.driver_features)
    }

    pub(crate) fn status(&self) -> Status {
        self.with(|state| state.status)
    }

    pub(crate) fn setup(&self, queue: u16) -> QueueSetup {
        self.with(|state| state.queues[usize::from(queue)].setup)
            .expect("queue is enabled")
    }

    pub(crate) fn doorbells(&self, queue: u16) -> u64 {
        self.with(|state| state.queues[usize::from(queue)].doorbells)
    }

    pub(crate) fn interrupts(&self, queue: u16) -> u64 {
        self.with(|state| state.queues[usize::from(queue)].interrupts)
    }

    pub(crate) fn config_vector(&self) -> Option<u16> {
        self.with(|state| state.config_vector)
    }

    /// Replaces the configuration between two reads.
    pub(crate) fn set_config(&self, offset: usize, bytes: &[u8]) {
        self.with(|state| {
            state.options.config[offset..offset + bytes.len()].copy_from_slice(bytes);
            state.generation += 1;
        });
    }

    /// The next read gets half old, half new bytes.
    pub(crate) fn change_config_during_next_read(&self, config: &[u8]) {
        self.with(|state| state.next_config = Some(config.to_vec()));
    }

    pub(crate) fn change_config_always(&self) {
        self.with(|state| state.unstable = true);
    }

    /// Sets `NEEDS_RESET`.
    pub(crate) fn fail(&self) {
        self.with(|state| state.status |= Status::NEEDS_RESET);
    }

    /// Calls `hook` with the queue's number at each interrupt.
    pub(crate) fn on_interrupt(&self, hook: impl Fn(u16) + Send + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn event_idx(&self) -> bool {
        self.driver_features() & feature::EVENT_IDX != 0
    }

    /// Requests published and not yet taken.
    pub(crate) fn available(&self, queue: u16) -> u16 {
        let address = self.setup(queue).available_address + 2;
        let index = self.dma.word16(address).unwrap().load(Ordering::Acquire);
        let taken = self.with(|state| state.queues[usize::from(queue)].taken);
        let available = index.wrapping_sub(taken);
        assert!(
            available <= self.setup(queue).size,
            "available index ran ahead: {index}"
        );
        available
    }

    /// Takes the next request.
    pub(crate) fn take(&self, queue: u16) -> Option<FakeChain> {
        if self.available(queue) == 0 {
            return None;
        }
        let setup = self.setup(queue);
        let index = self.with(|state| {
            let taken = &mut state.queues[usize::from(queue)].taken;
            *taken = taken.wrapping_add(1);
            taken.wrapping_sub(1)
        });
        let slot = u64::from(index & (setup.size - 1));
        let mut word = [0; 2];
        self.dma
            .read(setup.available_address + 4 + 2 * slot, &mut word)
            .unwrap();
        Some(self.walk(&setup, u16::from_le_bytes(word)))
    }

    fn walk(&self, setup: &QueueSetup, head: u16) -> FakeChain {
        let (mut readable, mut writable, mut descriptors) = (vec![], vec![], vec![]);
        let mut index = head;
        loop {
            assert!(index < setup.size, "descriptor {index} of {}", setup.size);
            assert!(
                descriptors.len() < usize::from(setup.size),
                "descriptor loop"
            );
            descriptors.push(index);
            let mut bytes = [0; 16];
            let address = setup.descriptors_address + 16 * u64::from(index);
            self.dma.read(address, &mut bytes).unwrap();
            let buffer = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes([bytes[12], bytes[13]]);
            assert!(len > 0, "empty descriptor");
            self.dma
                .read(buffer, &mut vec![0; len as usize])
                .expect("buffer is DMA memory");
            if flags & 2 != 0 {
                writable.push((buffer, len));
            } else {
                assert!(writable.is_empty(), "readable after writable");
                readable.push((buffer, len));
            }
            if flags & 1 == 0 {
                return FakeChain {
                    head,
                    descriptors,
                    readable,
                    writable,
                };
            }
            index = u16::from_le_bytes([bytes[14], bytes[15]]);
        }
    }

    /// The bytes of a request.
    pub(crate) fn read_chain(&self, chain: &FakeChain) -> Vec<u8> {
        let mut all = Vec::new();
        for &(address, len) in &chain.readable {
            let mut part = vec![0; len as usize];
            self.dma.read(address, &mut part).unwrap();
            all.extend(part);
        }
        all
    }

    /// Writes into a request's buffers; returns how much fitted.
    pub(crate) fn write_chain(&self, chain: &FakeChain, mut bytes: &[u8]) -> u32 {
        let mut written = 0;
        for &(address, len) in &chain.writable {
            let part = bytes.len().min(len as usize);
            self.dma.write(address, &bytes[..part]).unwrap();
            bytes = &bytes[part..];
            written += part as u32;
        }
        written
    }

    /// Completes a request and interrupts if the driver wants it.
    pub(crate) fn complete(&self, queue: u16, head: u16, written: u32) {
        let used = self.with(|state| state.queues[usize::from(queue)].used);
        self.claim(queue, used, u32::from(head), written);
        self.set_used_index(queue, used.wrapping_add(1));
        self.interrupt(queue);
    }

    pub(crate) fn used_index(&self, queue: u16) -> u16 {
        self.with(|state| state.queues[usize::from(queue)].used)
    }

    /// Completes whatever the available ring has at the used index, without looking at it: what
    /// an in-order device does that has lost count.
    pub(crate) fn complete_blindly(&self, queue: u16, written: u32) {
        let setup = self.setup(queue);
        let used = self.used_index(queue);
        let published = self.dma.word16(setup.available_address + 2).unwrap();
        if published.load(Ordering::Acquire) == used {
            return;
        }
        let slot = u64::from(used & (setup.size - 1));
        let mut word = [0; 2];
        self.dma
            .read(setup.available_address + 4 + 2 * slot, &mut word)
            .unwrap();
        self.complete(queue, u16::from_le_bytes(word), written);
    }

    /// Writes a used element, true or not, without publishing it.
    pub(crate) fn claim(&self, queue: u16, index: u16, id: u32, len: u32) {
        let setup = self.setup(queue);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&id.to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        let slot = u64::from(index & (setup.size - 1));
        self.dma
            .write(setup.used_address + 4 + 8 * slot, &element)
            .unwrap();
    }

    /// Publishes a used index, true or not.
    pub(crate) fn set_used_index(&self, queue: u16, index: u16) {
        self.with(|state| state.queues[usize::from(queue)].used = index);
        let address = self.setup(queue).used_address + 2;
        self.dma
            .word16(address)
            .unwrap()
            .store(index, Ordering::Release);
    }

    /// Raises an interrupt, unless suppressed, for completions since the last time.
    pub(crate) fn interrupt(&self, queue: u16) {
        fence(Ordering::SeqCst);
        let setup = self.setup(queue);
        let available = setup.available_address;
        let wanted = if self.event_idx() {
            let event = available + 4 + 2 * u64::from(setup.size);
            let event = self.dma.word16(event).unwrap().load(Ordering::Relaxed);
            self.with(|state| {
                let queue = &state.queues[usize::from(queue)];
                let ahead = queue.used.wrapping_sub(event).wrapping_sub(1);
                ahead < queue.used.wrapping_sub(queue.signalled)
            })
        } else {
            self.dma.word16(available).unwrap().load(Ordering::Relaxed) & 1 == 0
        };
        self.with(|state| {
            let queue = &mut state.queues[usize::from(queue)];
            queue.signalled = queue.used;
            queue.interrupts += u64::from(wanted);
        });
        if wanted {
            self.shared.changed.notify_all();
            if let Some(hook) = &*self.shared.hook.lock().unwrap() {
                hook(queue);
            }
        }
    }

    /// Asks for doorbells (or none); returns whether requests wait already.
    pub(crate) fn want_doorbells(&self, queue: u16, wanted: bool) -> bool {
        let setup = self.setup(queue);
        if self.event_idx() {
            let taken = self.with(|state| state.queues[usize::from(queue)].taken);
            let event = if wanted { taken } else { taken.wrapping_sub(1) };
            let address = setup.used_address + 4 + 8 * u64::from(setup.size);
            self.dma
                .word16(address)
                .unwrap()
                .store(event, Ordering::Relaxed);
        } else {
            let flag = u16::from(!wanted);
            self.dma
                .word16(setup.used_address)
                .unwrap()
                .store(flag, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.available(queue) > 0
    }

    /// Waits until the doorbell count passes `seen`; false on timeout.
    pub(crate) fn wait_doorbell(&self, queue: u16, seen: u64, timeout: Duration) -> bool {
        self.wait(timeout, |state| {
            state.queues[usize::from(queue)].doorbells > seen
        })
    }

    /// Waits until the interrupt count passes `seen`; false on timeout.
    pub(crate) fn wait_interrupt(&self, queue: u16, seen: u64, timeout: Duration) -> bool {
        self.wait(timeout, |state| {
            state.queues[usize::from(queue)].interrupts > seen
        })
    }

    fn wait(&self, timeout: Duration, ready: impl Fn(&State) -> bool) -> bool {
        let state = self.shared.state.lock().unwrap();
        let (_state, result) = self
            .shared
            .changed
            .wait_timeout_while(state, timeout, |state| !ready(state))
            .unwrap();
        !result.timed_out()
    }
}

/// The driver's end of a [`FakeDevice`].
pub(crate) struct FakeTransport {
    device: FakeDevice,
    /// Swallow doorbells of this queue (for tests that need a deaf device).
    pub(crate) broken_event: Option<u16>,
}

impl Transport for FakeTransport {
    fn device_type(&self) -> u16 {
        self.device.with(|state| state.options.device_type)
    }

    fn reset(&mut self) -> Result<ResetProof, TransportError> {
        self.device.with(|state| {
            if state.options.stuck_in_reset {
                return Err(TransportError::ResetTimeout);
            }
            state.status = Status::empty();
            state.driver_features = 0;
            for queue in &mut state.queues {
                *queue = FakeQueue::default();
            }
            // SAFETY: every queue is forgotten, so the fake touches its memory no more.
            Ok(unsafe { ResetProof::new() })
        })
    }

    fn status(&self) -> Status {
        self.device.status()
    }

    fn set_status(&mut self, mut status: Status) {
        self.device.with(|state| {
            if state.options.refuse_features {
                status.remove(Status::FEATURES_OK);
            }
            state.status = status;
        });
    }

    fn device_features(&mut self) -> u64 {
        self.device.with(|state| state.options.features)
    }

    fn set_driver_features(&mut self, features: u64) {
        self.device.with(|state| {
            assert_eq!(
                features & !state.options.features,
                0,
                "features not offered"
            );
            state.driver_features = features;
        });
    }

    fn max_queue_size(&mut self, index: u16) -> u16 {
        let sizes = self.device.with(|state| state.options.queue_sizes.clone());
        sizes.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn enable_queue(&mut self, setup: QueueSetup) -> Result<(), TransportError> {
        self.device.with(|state| {
            if setup
                .vector
                .is_some_and(|vector| vector >= state.options.vectors)
            {
                return Err(TransportError::VectorRefused);
            }
            let queue = state
                .queues
                .get_mut(usize::from(setup.index))
                .ok_or(TransportError::QueueUnavailable)?;
            if queue.setup.is_some() {
                return Err(TransportError::QueueUnavailable);
            }
            queue.setup = Some(setup);
            Ok(())
        })
    }

    fn set_config_vector(&mut self, vector: u16) -> Result<(), TransportError> {
        self.device.with(|state| {
            if vector >= state.options.vectors {
                return Err(TransportError::VectorRefused);
            }
            state.config_vector = Some(vector);
            Ok(())
        })
    }

    fn notify(&self, index: u16) {
        if self.broken_event != Some(index) {
            self.device
                .with(|state| state.queues[usize::from(index)].doorbells += 1);
            self.device.shared.changed.notify_all();
        }
    }

    fn config_generation(&self) -> u32 {
        self.device.with(|state| {
            state.generation += u32::from(state.unstable);
            state.generation
        })
    }

    fn read_config_once(&self, offset: usize, out: &mut [u8]) -> Result<(), TransportError> {
        self.device.with(|state| {
            let end = offset + out.len();
            let old = state.options.config.get(offset..end);
            out.copy_from_slice(old.ok_or(TransportError::ConfigOutOfRange)?);
            if let Some(new) = state.next_config.take() {
                let half = out.len() / 2;
                out[half..].copy_from_slice(&new[offset + half..end]);
                state.options.config = new;
                state.generation += 1;
            }
            Ok(())
        })
    }
}
