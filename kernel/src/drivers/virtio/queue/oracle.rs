//! Our queue and the one of the crate `virtio-drivers`, side by side on one script.
//!
//! Both run against their own copy of the fake device. After every step what the device sees
//! (descriptors, lengths, directions, order) and what the driver gets back must be equal: the fake
//! device is so checked by a driver that we did not write, and our queue by a fake device that
//! another driver finds plausible.
//!
//! Doorbells are equal without EVENT_IDX. With it ours are a subset: theirs compares indices without
//! regard to what was already announced, and so rings more often than the specification asks.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use std::cell::RefCell;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport as Theirs};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::fake::{FakeChain, FakeDevice, FakeOptions, FakeTransport};
use super::super::transport::{QueueSetup, Status, Transport, feature, finish, negotiate};
use super::tests::Random;
use super::{Direction, QueueOptions, Segment, SplitQueue};
use crate::drivers::dma::fake::FakeDma;
use crate::drivers::dma::{Dma, DmaRegion, PAGE_SIZE};

std::thread_local! {
    /// The oracle's `Hal` has no `self`; each test thread has an address space of its own.
    static MEMORY: RefCell<FakeDma> = RefCell::new(FakeDma::new());
}

fn memory() -> FakeDma {
    MEMORY.with(|memory| memory.borrow().clone())
}

struct OracleHal;

// SAFETY: memory comes from `FakeDma`, whose regions are fresh, zeroed and page-aligned.
unsafe impl Hal for OracleHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let region = memory().allocate(pages * PAGE_SIZE).unwrap();
        (region.physical_address, region.virtual_address)
    }

    unsafe fn dma_dealloc(physical: PhysAddr, memory_at: NonNull<u8>, pages: usize) -> i32 {
        let region = DmaRegion {
            virtual_address: memory_at,
            physical_address: physical,
            len_bytes: pages * PAGE_SIZE,
        };
        // SAFETY: the oracle frees what `dma_alloc` gave it, once.
        unsafe { memory().free(region) };
        0
    }

    unsafe fn mmio_phys_to_virt(_physical: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("the fake transport has no registers")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        memory().expose(buffer.cast(), buffer.len())
    }

    unsafe fn unshare(physical: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {
        memory().hide(physical);
    }
}

/// The fake transport in the oracle's terms.
struct OracleTransport {
    inner: FakeTransport,
    enabled: Vec<u16>,
}

impl Theirs for OracleTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        self.inner.device_features()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.inner.set_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue).into()
    }
    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.inner.status().bits().into())
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.inner
            .set_status(Status::from_bits_retain(status.bits() as u8));
    }
    fn set_guest_page_size(&mut self, _size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, index: u16, size: u32, table: u64, available: u64, used: u64) {
        let setup = QueueSetup {
            index,
            size: size as u16,
            descriptors_address: table,
            available_address: available,
            used_address: used,
            vector: None,
        };
        self.inner.enable_queue(setup).unwrap();
        self.enabled.push(index);
    }
    fn queue_unset(&mut self, _queue: u16) {}
    fn queue_used(&mut self, queue: u16) -> bool {
        self.enabled.contains(&queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        self.inner.config_generation()
    }
    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        _offset: usize,
    ) -> virtio_drivers::Result<T> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
}

/// A request both queues are given: bytes to the device, and lengths from it.
#[derive(Clone)]
struct Request {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

fn random_request(random: &mut Random) -> Request {
    let mut bytes = |fill| vec![fill; 1 + (random.next() % 60) as usize];
    let inputs: Vec<_> = (0..2).map(|_| bytes(7)).collect();
    let outputs: Vec<_> = (0..2).map(|_| bytes(0)).collect();
    let (keep_in, keep_out) = ((random.next() % 3) as usize, (random.next() % 3) as usize);
    let keep_out = if keep_in + keep_out == 0 { 1 } else { keep_out };
    Request {
        inputs: inputs[..keep_in].to_vec(),
        outputs: outputs[..keep_out].to_vec(),
    }
}

/// What must be equal of a chain: everything but the addresses.
fn shape(chain: &FakeChain) -> (u16, Vec<u16>, Vec<u32>, Vec<u32>) {
    let lengths = |parts: &[(u64, u32)]| parts.iter().map(|&(_, len)| len).collect();
    let descriptors = chain.descriptors.clone();
    (
        chain.head,
        descriptors,
        lengths(&chain.readable),
        lengths(&chain.writable),
    )
}

fn segments(request: &Request) -> Vec<Segment> {
    let segment = |(slot, bytes): (usize, &Vec<u8>), direction| Segment {
        offset: slot * 64,
        len_bytes: bytes.len() as u32,
        direction,
    };
    let inputs = request
        .inputs
        .iter()
        .enumerate()
        .map(|part| segment(part, Direction::ToDevice));
    let outputs = request
        .outputs
        .iter()
        .enumerate()
        .map(|part| segment(part, Direction::FromDevice));
    inputs.chain(outputs).collect()
}

#[test]
fn both_queues_agree_on_twenty_thousand_random_steps() {
    for event_idx in [false, true] {
        agree(event_idx);
    }
}

fn agree(event_idx: bool) {
    let event = if event_idx { feature::EVENT_IDX } else { 0 };
    let options = FakeOptions {
        features: feature::VERSION_1 | event,
        ..Default::default()
    };

    let dma = FakeDma::new();
    let device = FakeDevice::new(&dma, options.clone());
    let mut transport = device.transport();
    negotiate(&mut transport, event, feature::VERSION_1).unwrap();
    let queue_options = QueueOptions {
        index: 0,
        max_size: 8,
        buffer_bytes: 64,
        event_idx,
        vector: None,
    };
    let mut ours = SplitQueue::create(&mut transport, &dma.handle(), queue_options).unwrap();
    finish(&mut transport);

    let their_device = FakeDevice::new(&memory(), options);
    let mut their_fake = their_device.transport();
    negotiate(&mut their_fake, event, feature::VERSION_1).unwrap();
    let mut their_transport = OracleTransport {
        inner: their_fake,
        enabled: Vec::new(),
    };
    let mut theirs =
        VirtQueue::<OracleHal, 8>::new(&mut their_transport, 0, false, event_idx).unwrap();

    let mut random = Random(42);
    let mut pending: Vec<Option<Request>> = vec![None; 8];
    let mut in_device: Vec<(FakeChain, FakeChain)> = Vec::new();
    let (mut completed, mut doorbells) = (0, 0);
    for step in 0..20_000_u32 {
        match random.next() % 5 {
            0 | 1 => {
                let mut request = random_request(&mut random);
                let mut head = None;
                {
                    let inputs: Vec<&[u8]> = request.inputs.iter().map(Vec::as_slice).collect();
                    let mut outputs: Vec<&mut [u8]> =
                        request.outputs.iter_mut().map(Vec::as_mut_slice).collect();
                    // SAFETY: the request is kept in `pending`, unmoved on the heap, until popped.
                    if let Ok(token) = unsafe { theirs.add(&inputs, &mut outputs) } {
                        head = Some(token);
                    }
                }
                let added = ours.add(&segments(&request), step).is_ok();
                assert_eq!(
                    added,
                    head.is_some(),
                    "room for {}",
                    segments(&request).len()
                );
                if let Some(head) = head {
                    pending[usize::from(head)] = Some(request);
                    let (our_bell, their_bell) = (ours.should_notify(), theirs.should_notify());
                    assert!(our_bell == their_bell || (event_idx && their_bell));
                    doorbells += u32::from(our_bell);
                }
            }
            2 => {
                if let Some(chain) = device.take(0) {
                    let their_chain = their_device.take(0).expect("as many as ours");
                    assert_eq!(shape(&chain), shape(&their_chain));
                    in_device.push((chain, their_chain));
                }
                assert_eq!(device.available(0), their_device.available(0));
            }
            3 if !in_device.is_empty() => {
                let which = random.next() as usize % in_device.len();
                let (chain, their_chain) = in_device.swap_remove(which);
                let data = vec![step as u8; (random.next() % 130) as usize];
                let written = device.write_chain(&chain, &data);
                assert_eq!(their_device.write_chain(&their_chain, &data), written);
                device.complete(0, chain.head, written);
                their_device.complete(0, their_chain.head, written);
            }
            4 => {
                let wanted = random.next().is_multiple_of(2);
                device.want_doorbells(0, wanted);
                their_device.want_doorbells(0, wanted);
                while let Some(head) = theirs.peek_used() {
                    let mut request = pending[usize::from(head)].take().unwrap();
                    let inputs: Vec<&[u8]> = request.inputs.iter().map(Vec::as_slice).collect();
                    let mut outputs: Vec<&mut [u8]> =
                        request.outputs.iter_mut().map(Vec::as_mut_slice).collect();
                    // SAFETY: the same buffers as given to `add` for this token.
                    let written = unsafe { theirs.pop_used(head, &inputs, &mut outputs) }.unwrap();
                    let used = ours.pop_used().unwrap().expect("as many as theirs");
                    assert_eq!(used.written_bytes, written);
                    completed += 1;
                }
                assert_eq!(ours.pop_used(), Ok(None));
                assert_eq!(
                    usize::from(ours.free_descriptors()),
                    theirs.available_desc()
                );
            }
            _ => {}
        }
    }
    assert!(
        completed > 1000 && doorbells > 100,
        "{completed} {doorbells}"
    );
}
