//! The threads of a network device, on real CPUs of the hosted executor, against the fake device.

use super::*;
use crate::drivers::dma::fake::FakeDma;
use crate::drivers::virtio::fake::{FakeDevice, FakeOptions, FakeTransport};
use crate::drivers::virtio::transport::feature;
use alloc::vec;
use executor::CpuId;
use executor::hosted::{Hosted, Options};
use net::Device;
use std::sync::mpsc;
use std::thread;

const VECTORS: Vectors = Vectors {
    config: 0,
    receive: 1,
    transmit: 2,
};
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame(Vec<u8>),
    Link(bool),
}

struct Tell(mpsc::Sender<Seen>);

impl Receiver for Tell {
    fn input(&self, packet: Packet) {
        let _ = self.0.send(Seen::Frame(packet.to_vec()));
    }
    fn link_changed(&self, up: bool) {
        let _ = self.0.send(Seen::Link(up));
    }
}

struct Bench {
    node: Hosted,
    fake: FakeDevice,
    device: Arc<VtnetDevice<FakeTransport>>,
    events: Arc<Events>,
    seen: mpsc::Receiver<Seen>,
}

fn bench(cpus: usize) -> Bench {
    let dma = FakeDma::new();
    let features = feature::VERSION_1 | feature::EVENT_IDX | 1 << 5 | 1 << 16;
    let config = vec![2, 0, 0, 0, 0, 1, 1, 0];
    let fake = FakeDevice::new(
        &dma,
        FakeOptions {
            features,
            config,
            ..Default::default()
        },
    );
    let events = Arc::new(Events::default());
    let signalled = events.clone();
    fake.on_interrupt(move |queue| match queue {
        0 => signalled.receive.signal(),
        _ => signalled.transmit.signal(),
    });
    let node = Hosted::start(Options {
        cpus,
        ..Options::default()
    });
    let (tell, seen) = mpsc::channel();
    let (transport, given) = (fake.transport(), events.clone());
    let device = node.block_on(move || async move {
        let vtnet = Vtnet::bring_up(transport, &dma.handle(), VECTORS, given).unwrap();
        let device = vtnet.device();
        vtnet.start(Tell(tell));
        device
    });
    Bench {
        node,
        fake,
        device: Arc::new(device),
        events,
        seen,
    }
}

/// What is sent comes back, as on a wire with a mirror; until `frames` have passed.
fn mirror(fake: &FakeDevice, frames: usize) -> thread::JoinHandle<()> {
    let fake = fake.clone();
    thread::spawn(move || {
        let mut passed = 0;
        while passed < frames {
            let seen = fake.doorbells(1);
            while let Some(sent) = fake.take(1) {
                fake.want_doorbells(1, false);
                let bytes = fake.read_chain(&sent);
                let chain = loop {
                    if let Some(chain) = fake.take(0) {
                        break chain;
                    }
                    let rung = fake.doorbells(0);
                    if !fake.want_doorbells(0, true) {
                        assert!(fake.wait_doorbell(0, rung, PATIENCE), "refill never rang");
                    }
                };
                let written = fake.write_chain(&chain, &bytes);
                fake.complete(0, chain.head, written);
                fake.complete(1, sent.head, 0);
                passed += 1;
            }
            if !fake.want_doorbells(1, true) && passed < frames {
                assert!(
                    fake.wait_doorbell(1, seen, PATIENCE),
                    "send never rang at {passed}"
                );
            }
        }
    })
}

fn frame(cpu: u8, number: u16) -> Packet {
    let mut bytes = vec![cpu; 60];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    Packet::copy_from(16, &bytes).unwrap()
}

#[test]
fn frames_of_all_cpus_pass_in_order_and_none_is_lost() {
    const EACH: u16 = 3000;
    let bench = bench(2);
    let mirror = mirror(&bench.fake, 2 * usize::from(EACH));
    for cpu in 0..2_u16 {
        let device = bench.device.clone();
        let send = move || async move {
            for number in 0..EACH {
                // Below the bound of the queue, so nothing may be dropped.
                while device.status.queued.load(Ordering::Relaxed) > 400 {
                    executor::sleep(Duration::from_micros(50)).await;
                }
                device.transmit(frame(cpu as u8, number));
                if number % 16 == 0 {
                    executor::yield_now().await;
                }
            }
        };
        bench
            .node
            .node()
            .spawn_on(CpuId(cpu), "sender", send)
            .detach();
    }
    let mut next = [0; 2];
    for _ in 0..2 * u32::from(EACH) {
        let Ok(Seen::Frame(bytes)) = bench.seen.recv_timeout(PATIENCE) else {
            panic!("frames lost: {next:?}, {:?}", bench.device.counters());
        };
        let cpu = usize::from(bytes[2]);
        assert_eq!(
            u16::from_le_bytes([bytes[0], bytes[1]]),
            next[cpu],
            "order of cpu {cpu}"
        );
        next[cpu] += 1;
    }
    mirror.join().unwrap();
    let statistics = bench.device.statistics();
    assert_eq!(statistics.sent_packets, 6000);
    assert_eq!((statistics.sent_drops, statistics.received_drops), (0, 0));
    assert_eq!(bench.device.status.queued.load(Ordering::Relaxed), 0);
}

#[test]
fn a_stalled_device_costs_counted_drops_and_goes_on_afterwards() {
    let bench = bench(1);
    let device = bench.device.clone();
    let total = QUEUE_LIMIT + 100;
    bench.node.block_on(move || async move {
        for number in 0..total {
            device.transmit(frame(0, number as u16));
        }
    });
    // The ring has 8 entries, the queue its limit; the rest has nowhere to be.
    assert_eq!(
        bench.device.statistics().sent_drops,
        (total - 8 - QUEUE_LIMIT) as u64
    );
    mirror(&bench.fake, 8 + QUEUE_LIMIT).join().unwrap();
    for number in 0..8 + QUEUE_LIMIT {
        let seen = bench.seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen, Seen::Frame(frame(0, number as u16).to_vec()));
    }
}

#[test]
fn a_device_that_breaks_is_reset_and_works_again() {
    let bench = bench(1);
    bench.fake.set_used_index(0, 100);
    bench.fake.interrupt(0);
    bench.events.receive.signal();
    assert_eq!(bench.seen.recv_timeout(PATIENCE), Ok(Seen::Link(false)));
    assert_eq!(bench.seen.recv_timeout(PATIENCE), Ok(Seen::Link(true)));
    let mirror = mirror(&bench.fake, 1);
    let device = bench.device.clone();
    bench
        .node
        .block_on(move || async move { device.transmit(frame(0, 7)) });
    assert_eq!(
        bench.seen.recv_timeout(PATIENCE),
        Ok(Seen::Frame(frame(0, 7).to_vec()))
    );
    mirror.join().unwrap();
    assert_eq!(bench.device.counters().0.queue_errors, 1);
}

#[test]
fn the_link_is_reported_and_a_device_in_need_is_reset() {
    let bench = bench(1);
    bench.fake.set_config(6, &[0, 0]);
    bench.events.config.signal();
    assert_eq!(bench.seen.recv_timeout(PATIENCE), Ok(Seen::Link(false)));
    assert!(!bench.device.link_up());
    let device = bench.device.clone();
    bench
        .node
        .block_on(move || async move { device.transmit(frame(0, 0)) });
    assert_eq!(bench.device.counters().0.transmit_link_down, 1);
    bench.fake.set_config(6, &[1, 0]);
    bench.fake.fail();
    bench.events.config.signal();
    assert_eq!(bench.seen.recv_timeout(PATIENCE), Ok(Seen::Link(true)));
    assert!(bench.device.link_up());
}

#[test]
fn frames_that_a_stalled_device_leaves_no_room_for_are_counted_by_reason() {
    let bench = bench(1);
    let device = bench.device.clone();
    let sent = QUEUE_LIMIT as u64 + 600;
    let count = |device: &VtnetDevice<FakeTransport>, wanted: &str| {
        let mut found = None;
        device.each_counter(&mut |text, value| {
            if text.contains(wanted) {
                assert_eq!(found.replace(value), None, "two of them");
            }
        });
        found.unwrap()
    };
    // Nobody takes frames out of the ring: it fills, then the queue before it.
    let (given, too_many) = bench.node.block_on(move || async move {
        (0..sent).for_each(|number| device.transmit(frame(number as u8, 0)));
        let given = count(&device, "frames given to the device");
        (given, count(&device, "too many wait"))
    });
    assert!(given > 0 && too_many > 0, "{given} {too_many}");
    assert_eq!(given + QUEUE_LIMIT as u64 + too_many, sent);
    assert_eq!(bench.device.statistics().sent_drops, too_many);
}

/// Each frame that comes up makes the device receive another, so the ring never runs dry.
struct Flood {
    fake: FakeDevice,
    left: core::cell::Cell<u32>,
    stop: Arc<AtomicBool>,
    tell: mpsc::Sender<u32>,
}

impl Receiver for Flood {
    fn input(&self, packet: Packet) {
        if self.stop.load(Ordering::Relaxed) || self.left.get() == 0 {
            let _ = self.tell.send(self.left.get());
            return;
        }
        self.left.set(self.left.get() - 1);
        let chain = self
            .fake
            .take(0)
            .expect("buffers go back before frames come up");
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(&packet);
        let written = self.fake.write_chain(&chain, &bytes);
        self.fake.complete(0, chain.head, written);
    }
    fn link_changed(&self, _up: bool) {}
}

#[test]
fn a_flood_leaves_time_for_threads_of_low_priority() {
    const FRAMES: u32 = 100_000;
    let dma = FakeDma::new();
    let features = feature::VERSION_1 | feature::EVENT_IDX | 1 << 5;
    let options = FakeOptions {
        features,
        config: vec![2, 0, 0, 0, 0, 1],
        ..Default::default()
    };
    let fake = FakeDevice::new(&dma, options);
    let events = Arc::new(Events::default());
    let signalled = events.clone();
    fake.on_interrupt(move |_| signalled.receive.signal());
    let node = Hosted::start(Options {
        cpus: 1,
        ..Options::default()
    });
    let (tell, told) = mpsc::channel();
    let given = fake.clone();
    node.block_on(move || async move {
        let vtnet = Vtnet::bring_up(given.transport(), &dma.handle(), VECTORS, events).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (left, fake) = (core::cell::Cell::new(FRAMES), given);
        vtnet.start(Flood {
            fake: fake.clone(),
            left,
            stop: stop.clone(),
            tell,
        });
        let quiet = async move {
            // Runs when nothing of a higher priority can.
            executor::yield_now().await;
            stop.store(true, Ordering::Relaxed);
        };
        Builder::new("quiet")
            .priority(Priority::IDLE)
            .spawn(quiet)
            .detach();
        let chain = fake.take(0).unwrap();
        let written = fake.write_chain(&chain, &[1; 72]);
        fake.complete(0, chain.head, written);
    });
    assert!(
        told.recv_timeout(PATIENCE).unwrap() > 0,
        "the flood came to its end first"
    );
}
