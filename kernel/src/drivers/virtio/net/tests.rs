//! The network driver against a device that behaves, stalls, and lies.

use super::super::fake::{FakeDevice, FakeOptions, FakeTransport};
use super::super::queue::tests::Random;
use super::*;
use crate::drivers::dma::fake::FakeDma;
use alloc::vec;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// What QEMU 7.2 offers with a socket backend.
const QEMU_FEATURES: u64 = 0x0101_30bf_8024;
const VECTORS: Vectors = Vectors {
    config: 0,
    receive: 1,
    transmit: 2,
};

fn options(mtu: u16) -> FakeOptions {
    let mut config = MAC.to_vec();
    config.extend([1, 0, 1, 0]);
    config.extend(mtu.to_le_bytes());
    FakeOptions {
        features: QEMU_FEATURES,
        queue_sizes: vec![8, 8, 8],
        config,
        ..Default::default()
    }
}

struct Bench {
    dma: FakeDma,
    device: FakeDevice,
    net: VirtioNet<FakeTransport>,
}

fn bench() -> Bench {
    let dma = FakeDma::new();
    let device = FakeDevice::new(&dma, options(1500));
    let net = VirtioNet::new(device.transport(), &dma.handle(), VECTORS).unwrap();
    Bench { dma, device, net }
}

impl Bench {
    /// The device receives a frame from the wire; false when it has no buffer.
    fn arrive(&self, frame: &[u8]) -> bool {
        let Some(chain) = self.device.take(0) else {
            return false;
        };
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend(frame);
        let written = self.device.write_chain(&chain, &bytes);
        self.device.complete(0, chain.head, written);
        true
    }

    fn poll(&mut self, budget: usize) -> (Vec<Vec<u8>>, Result<Progress, QueueError>) {
        let mut frames = Vec::new();
        let progress = self.net.poll_receive(budget, |frame| {
            let mut bytes = vec![0; frame.len_bytes()];
            frame.copy_to(&mut bytes).unwrap();
            frames.push(bytes);
            Ok(())
        });
        (frames, progress)
    }
}

#[test]
fn set_up_takes_the_features_it_uses_and_fills_the_ring() {
    let Bench { dma, device, net } = bench();
    assert_eq!(device.driver_features(), 0x1_2001_0020);
    assert_eq!((net.mac(), net.mtu(), net.link_up()), (MAC, 1500, true));
    assert_eq!((device.available(0), device.available(1)), (8, 0));
    assert_eq!(device.doorbells(0), 1);
    assert_eq!(device.config_vector(), Some(0));
    assert_eq!(
        (device.setup(0).vector, device.setup(1).vector),
        (Some(1), Some(2))
    );
    assert!(device.status().contains(Status::DRIVER_OK));
    assert!(net.shut_down().is_ok());
    assert_eq!(dma.allocated_bytes(), 0);
}

#[test]
fn frames_come_up_in_batches_and_their_buffers_go_back() {
    let mut bench = bench();
    let frame = |n: u8| [n; 60];
    for n in 0..8 {
        assert!(bench.arrive(&frame(n)));
    }
    assert!(!bench.arrive(&frame(9)), "ring is dry");
    assert!(!bench.device.want_doorbells(0, true));
    let rung = bench.device.doorbells(0);

    let (frames, progress) = bench.poll(5);
    assert_eq!(
        frames,
        (0..5).map(|n| frame(n).to_vec()).collect::<Vec<_>>()
    );
    assert_eq!(progress, Ok(Progress::More));
    assert_eq!(
        bench.device.doorbells(0),
        rung + 1,
        "a dry device must be told of the refill"
    );
    assert!(bench.net.await_frames(), "three frames wait");
    let (frames, progress) = bench.poll(5);
    assert_eq!((frames.len(), progress), (3, Ok(Progress::Drained)));
    assert_eq!(bench.device.available(0), 8);

    assert!(!bench.net.await_frames());
    let before = bench.device.interrupts(0);
    assert!(bench.arrive(&frame(10)));
    assert_eq!(bench.device.interrupts(0), before + 1);
    assert!(
        bench.arrive(&frame(11)),
        "suppressed only once polling starts"
    );
    assert_eq!(bench.net.counters().received_frames, 8);
    assert_eq!(bench.net.counters().received_bytes, 480);
}

#[test]
fn received_drops_have_reasons() {
    let mut bench = bench();
    bench.arrive(&[1; 13]);
    bench.arrive(&[2; 60]);
    let progress = bench.net.poll_receive(32, |_| Err(NoMemory));
    assert_eq!(progress, Ok(Progress::Drained));
    let counters = bench.net.counters();
    assert_eq!(
        (counters.receive_too_short, counters.receive_no_memory),
        (1, 1)
    );
    assert_eq!(counters.received_frames, 0);
    assert_eq!(
        bench.device.available(0),
        8,
        "no buffer is lost with a dropped frame"
    );
}

#[test]
fn frames_are_sent_with_an_empty_header_and_one_doorbell() {
    let mut bench = bench();
    for n in 0..3 {
        bench.net.transmit(&[n; 100]).unwrap();
    }
    assert_eq!(bench.device.doorbells(1), 0);
    bench.net.flush();
    assert_eq!(bench.device.doorbells(1), 1);
    for n in 0..3 {
        let chain = bench.device.take(1).unwrap();
        let bytes = bench.device.read_chain(&chain);
        assert_eq!(bytes[..12], [0; 12]);
        assert_eq!(bytes[12..], [n; 100]);
        bench.device.complete(1, chain.head, 0);
    }
    assert_eq!(bench.device.interrupts(1), 0, "nobody waits for room");
    let counters = bench.net.counters();
    assert_eq!(
        (counters.transmitted_frames, counters.transmitted_bytes),
        (3, 300)
    );
}

#[test]
fn a_full_ring_is_counted_and_its_room_can_be_awaited() {
    let mut bench = bench();
    for n in 0..8 {
        bench.net.transmit(&[n; 60]).unwrap();
    }
    assert_eq!(bench.net.transmit(&[8; 60]), Err(TransmitError::RingFull));
    bench.net.flush();
    assert!(!bench.net.await_room());
    let chain = bench.device.take(1).unwrap();
    bench.device.complete(1, chain.head, 0);
    assert_eq!(bench.device.interrupts(1), 1);
    assert!(bench.net.await_room());
    assert_eq!(bench.net.transmit(&[9; 60]), Ok(()));

    assert_eq!(bench.net.transmit(&[10; 60]), Err(TransmitError::RingFull));
    // Room comes between the refusal and the wait: no interrupt, so no wait.
    let chain = bench.device.take(1).unwrap();
    bench.device.complete(1, chain.head, 0);
    assert_eq!(bench.device.interrupts(1), 1);
    assert!(bench.net.await_room());
    assert_eq!(bench.net.counters().transmit_ring_full, 2);
}

#[test]
fn frames_that_cannot_be_sent_have_reasons() {
    let mut bench = bench();
    assert_eq!(bench.net.transmit(&[0; 13]), Err(TransmitError::TooShort));
    assert_eq!(bench.net.transmit(&[0; 1519]), Err(TransmitError::TooLong));
    assert_eq!(bench.net.transmit(&[0; 1518]), Ok(()));
    bench.device.set_config(CONFIG_STATUS, &[0, 0]);
    assert_eq!(bench.net.poll_config(), Some(false));
    assert_eq!(bench.net.poll_config(), None);
    assert_eq!(bench.net.transmit(&[0; 60]), Err(TransmitError::LinkDown));
    bench.device.set_config(CONFIG_STATUS, &[1, 0]);
    assert_eq!(bench.net.poll_config(), Some(true));
    bench.device.fail();
    assert_eq!(
        bench.net.poll_config(),
        Some(false),
        "a failed device has no link"
    );
    let counters = bench.net.counters();
    assert_eq!(
        (counters.transmit_too_short, counters.transmit_too_long),
        (1, 1)
    );
    assert_eq!((counters.transmit_link_down, counters.link_changes), (1, 3));
}

#[test]
fn an_mtu_beyond_our_buffers_is_not_accepted() {
    for (offered, taken, feature) in [
        (1400, 1400, FEATURE_MTU),
        (MAX_MTU, MAX_MTU, FEATURE_MTU),
        (9000, 1500, 0),
        (20, 1500, 0),
    ] {
        let dma = FakeDma::new();
        let mut options = options(offered);
        options.features |= FEATURE_MTU;
        let device = FakeDevice::new(&dma, options);
        let net = VirtioNet::new(device.transport(), &dma.handle(), VECTORS).unwrap();
        assert_eq!(net.mtu(), taken);
        assert_eq!(device.driver_features() & FEATURE_MTU, feature);
    }
}

#[test]
fn set_up_that_fails_keeps_nothing() {
    let error = |dma: &FakeDma, options| {
        let device = FakeDevice::new(dma, options);
        VirtioNet::new(device.transport(), &dma.handle(), VECTORS)
            .err()
            .unwrap()
    };
    let dma = FakeDma::new();
    let block = FakeOptions {
        device_type: 2,
        ..options(1500)
    };
    assert_eq!(error(&dma, block), NetSetupError::WrongType(2));
    let one_queue = FakeOptions {
        queue_sizes: vec![8],
        ..options(1500)
    };
    assert_eq!(
        error(&dma, one_queue),
        NetSetupError::Queue(SetupError::Absent)
    );
    let no_vectors = FakeOptions {
        vectors: 0,
        ..options(1500)
    };
    assert_eq!(
        error(&dma, no_vectors),
        TransportError::VectorRefused.into()
    );
    let no_mac = FakeOptions {
        features: feature::VERSION_1,
        ..options(1500)
    };
    assert_eq!(
        error(&dma, no_mac),
        TransportError::MissingFeatures(FEATURE_MAC).into()
    );
    dma.limit(5 * 4096 + 4096);
    assert_eq!(
        error(&dma, options(1500)),
        NetSetupError::Queue(SetupError::NoMemory)
    );
    assert_eq!(dma.allocated_bytes(), 0);
}

#[test]
fn a_broken_device_is_named_and_can_be_brought_up_again() {
    let mut bench = bench();
    bench.device.set_used_index(0, 9);
    let (frames, progress) = bench.poll(32);
    assert_eq!((frames.len(), progress), (0, Err(QueueError::IndexJump)));
    assert_eq!(bench.poll(32).1, Err(QueueError::IndexJump));
    assert_eq!(bench.net.counters().queue_errors, 1);
    assert!(bench.net.is_broken());
    let transport = bench.net.shut_down().ok().unwrap();
    let net = VirtioNet::new(transport, &bench.dma.handle(), VECTORS).unwrap();
    let mut bench = Bench { net, ..bench };
    assert!(bench.arrive(&[7; 60]));
    assert_eq!(bench.poll(32).0, [[7; 60]]);
}

/// Random traffic both ways with random completion lengths: what went in comes out, in order.
#[test]
fn random_traffic_is_neither_lost_nor_changed() {
    let mut bench = bench();
    let mut random = Random(7);
    let (mut sent, mut on_wire, mut from_wire, mut up) = (vec![], vec![], vec![], vec![]);
    for _ in 0..20_000 {
        let len = 14 + (random.next() % 1500) as usize;
        let frame = vec![random.next() as u8; len];
        match random.next() % 4 {
            0 => {
                if bench.net.transmit(&frame).is_ok() {
                    sent.push(frame);
                }
                bench.net.flush();
            }
            1 => {
                while let Some(chain) = bench.device.take(1) {
                    on_wire.push(bench.device.read_chain(&chain).split_off(12));
                    bench.device.complete(1, chain.head, 0);
                }
                bench.device.want_doorbells(1, true);
            }
            2 => {
                if bench.arrive(&frame) {
                    from_wire.push(frame);
                }
            }
            _ => up.extend(bench.poll(1 + (random.next() % 10) as usize).0),
        }
    }
    while let Some(chain) = bench.device.take(1) {
        on_wire.push(bench.device.read_chain(&chain).split_off(12));
        bench.device.complete(1, chain.head, 0);
    }
    up.extend(bench.poll(32).0);
    assert!(sent.len() > 1000 && from_wire.len() > 1000);
    assert!(sent == on_wire && from_wire == up);
}
