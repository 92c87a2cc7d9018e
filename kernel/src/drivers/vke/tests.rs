//! The card's threads on real CPUs of the hosted executor, at the end of a cable that the test holds.

use super::*;
use alloc::vec;
use crossbeam_queue::SegQueue;
use executor::CpuId;
use executor::hosted::{Hosted, Options};
use net::Network;
use std::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A cable of which the test has the other end.
struct TestCable {
    up: AtomicBool,
    event: Event,
    to_card: SegQueue<Vec<u8>>,
    /// Frames that `send` takes before it is full.
    room: AtomicUsize,
    taken: SegQueue<Vec<u8>>,
    /// What each flush has sent.
    flushed: mpsc::Sender<Vec<Vec<u8>>>,
}

impl Cable for TestCable {
    fn mac(&self) -> [u8; 6] {
        MAC
    }

    fn link_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    fn event(&self) -> &Event {
        &self.event
    }

    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.to_card.pop().map(|frame| take(&frame)).is_some()
    }

    fn send(&self, frame: &[u8]) -> Result<(), NotSent> {
        assert_eq!(executor::current_cpu(), CpuId(0), "the card's CPU alone");
        if !self.link_up() {
            return Err(NotSent::Unplugged);
        }
        if self.taken.len() >= self.room.load(Ordering::SeqCst) {
            return Err(NotSent::Full);
        }
        self.taken.push(frame.to_vec());
        Ok(())
    }

    fn flush(&self) {
        let frames: Vec<_> = core::iter::from_fn(|| self.taken.pop()).collect();
        if !frames.is_empty() {
            let _ = self.flushed.send(frames);
        }
    }
}

struct Bench {
    cable: Arc<TestCable>,
    device: Arc<dyn net::Device>,
    network: Network,
    flushed: mpsc::Receiver<Vec<Vec<u8>>>,
    /// Last, so that it goes last: the others may be memory of its heaps.
    host: Hosted,
}

/// Two CPUs, and a card driven by CPU 0 with the address 192.0.2.1. `prepare` sees the node before it has a network.
fn bench_on(prepare: impl FnOnce(&executor::Node)) -> Bench {
    let (sender, flushed) = mpsc::channel();
    let cable = Arc::new(TestCable {
        up: AtomicBool::new(true),
        event: Event::new(),
        to_card: SegQueue::new(),
        room: AtomicUsize::new(usize::MAX),
        taken: SegQueue::new(),
        flushed: sender,
    });
    let host = Hosted::start(Options {
        cpus: 2,
        ..Options::default()
    });
    prepare(host.node());
    let plugged = cable.clone();
    let (device, network) = host.block_on(move || async move {
        let network = Network::start(executor::current().node(), 1).await;
        let vke = Box::new(Vke::new(Arc::new(Shared(plugged))));
        let device = vke.device();
        let interface = network.attach("vke0", device.clone()).await.unwrap();
        vke.start(interface);
        network.set_up("vke0", true).await.unwrap();
        let address = "192.0.2.1/24".parse().unwrap();
        network.add_address("vke0", address).await.unwrap();
        (device, network)
    });
    let bench = Bench {
        host,
        cable,
        device,
        network,
        flushed,
    };
    // Its announcement of the address.
    bench.next_flush();
    bench
}

fn bench() -> Bench {
    bench_on(|_| {})
}

/// The test keeps the cable that the card has.
struct Shared(Arc<TestCable>);

impl Cable for Shared {
    fn mac(&self) -> [u8; 6] {
        self.0.mac()
    }
    fn link_up(&self) -> bool {
        self.0.link_up()
    }
    fn event(&self) -> &Event {
        self.0.event()
    }
    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.0.receive(take)
    }
    fn send(&self, frame: &[u8]) -> Result<(), NotSent> {
        self.0.send(frame)
    }
    fn flush(&self) {
        self.0.flush();
    }
}

impl Bench {
    fn next_flush(&self) -> Vec<Vec<u8>> {
        self.flushed.recv_timeout(PATIENCE).expect("frames")
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.device.each_counter(&mut |text, value| {
            if text == name {
                found = Some(value);
            }
        });
        found.expect(name)
    }

    fn wait_for(&self, name: &str, value: u64) {
        let limit = std::time::Instant::now() + PATIENCE;
        while self.counter(name) < value {
            assert!(std::time::Instant::now() < limit, "{name}: no {value}");
            std::thread::yield_now();
        }
        assert_eq!(self.counter(name), value, "{name}");
    }

    /// Has these CPUs send a frame of each of these lengths, and returns when they have.
    fn transmit_from(&self, cpu: u16, lengths: &[usize]) {
        let (device, lengths) = (self.device.clone(), lengths.to_vec());
        let sent = self
            .host
            .node()
            .spawn_on(CpuId(cpu), "sender", move || async move {
                for length in lengths {
                    let frame = vec![7; length];
                    device.transmit(Packet::copy_from(HEADROOM_BYTES, &frame).unwrap());
                }
            });
        self.host.block_on(move || async move {
            let _ = sent.await;
        });
    }
}

/// An ARP request for 192.0.2.1 (RFC 826).
fn arp_request() -> Vec<u8> {
    let mut frame = [[0xff; 6], OUR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OUR_MAC);
    frame.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame
}

#[test]
fn what_comes_in_is_answered_and_the_answers_of_a_batch_leave_together() {
    let bench = bench();
    for _ in 0..BATCH {
        bench.cable.to_card.push(arp_request());
    }
    bench.cable.event.signal();
    let answers = bench.next_flush();
    assert_eq!(answers.len(), BATCH, "one flush for the batch");
    for answer in &answers {
        assert_eq!(answer[..6], OUR_MAC);
        assert_eq!(answer[6..12], MAC);
        assert_eq!(answer[12..14], [8, 6]);
    }
    bench.wait_for("input frames", BATCH as u64);
    let request = arp_request().len() as u64;
    assert_eq!(bench.counter("input bytes"), BATCH as u64 * request);
}

#[test]
fn more_frames_than_a_batch_are_all_taken() {
    let bench = bench();
    let count = BATCH * (FLOOD_BATCHES as usize + 2) + 5;
    for _ in 0..count {
        bench.cable.to_card.push(arp_request());
    }
    bench.cable.event.signal();
    let mut answers = 0;
    while answers < count {
        answers += bench.next_flush().len();
    }
    bench.wait_for("input frames", count as u64);
}

#[test]
fn what_one_poll_sends_leaves_together() {
    let bench = bench();
    for burst in [5, 1] {
        bench.transmit_from(0, &vec![60; burst]);
        assert_eq!(bench.next_flush().len(), burst);
    }
}

#[test]
fn frames_of_any_cpu_leave_in_order() {
    let bench = bench();
    let before = bench.counter("output frames");
    for cpu in [0, 1] {
        bench.transmit_from(cpu, &[60, 100, 1514]);
        let mut lengths = Vec::new();
        while lengths.len() < 3 {
            lengths.extend(bench.next_flush().iter().map(Vec::len));
        }
        assert_eq!(lengths, [60, 100, 1514], "from CPU {cpu}");
    }
    bench.wait_for("output frames", before + 6);
    assert!(bench.flushed.try_recv().is_err());
}

#[test]
fn a_full_cable_loses_and_counts() {
    let bench = bench();
    let before = bench.counter("output frames");
    bench.cable.room.store(0, Ordering::SeqCst);
    bench.transmit_from(0, &[60, 60]);
    bench.transmit_from(1, &[60]);
    bench.wait_for("output dropped: the cable is full", 3);
    assert_eq!(bench.counter("output frames"), before);
    // There is room again, and nothing is stuck.
    bench.cable.room.store(usize::MAX, Ordering::SeqCst);
    bench.transmit_from(1, &[77]);
    assert_eq!(bench.next_flush()[0].len(), 77);
    assert_eq!(bench.device.statistics().sent_drops, 3);
}

#[test]
fn a_cable_pulled_out_is_seen_by_the_protocols_and_so_is_one_plugged_in() {
    let bench = bench();
    let link = |up| {
        bench.cable.up.store(up, Ordering::SeqCst);
        bench.cable.event.signal();
        let limit = std::time::Instant::now() + PATIENCE;
        let seen = || {
            let network = bench.network.clone();
            bench.host.block_on(move || async move {
                let vke = |it: &net::InterfaceStatus| it.name == "vke0";
                network.interfaces().into_iter().find(vke).unwrap().link
            })
        };
        while bench.device.link_up() != up || seen() != up {
            assert!(std::time::Instant::now() < limit, "link {up}");
            std::thread::yield_now();
        }
    };
    link(false);
    bench.transmit_from(0, &[60]);
    bench.wait_for("output dropped: nothing is connected", 1);
    link(true);
    bench.cable.to_card.push(arp_request());
    bench.cable.event.signal();
    while bench.next_flush()[0][..6] != OUR_MAC {}
}

#[cfg(feature = "process")]
#[test]
fn a_frame_that_finds_no_memory_is_counted_and_the_next_one_is_taken() {
    let (_turn, arena) = crate::platform::arena::test_arena(false);
    let bench = bench_on(|node| assert!(node.set_zones(arena.zones())));
    // Larger than the whole arena.
    bench.cable.to_card.push(vec![0; 8 << 20]);
    bench.cable.to_card.push(arp_request());
    bench.cable.event.signal();
    while bench.next_flush()[0][..6] != OUR_MAC {}
    bench.wait_for("input dropped: no memory", 1);
    assert_eq!(bench.device.statistics().received_drops, 1);
    drop(bench);
    // SAFETY: the node is gone, and what it had allocated with it.
    unsafe { arena.release() };
}

#[cfg(all(feature = "process", debug_assertions))]
#[test]
fn a_request_for_memory_that_fails_costs_a_counted_frame_and_no_more() {
    let (_turn, arena) = crate::platform::arena::test_arena(false);
    let bench = bench_on(|node| assert!(node.set_zones(arena.zones())));
    let lost = || {
        let network = bench.network.clone();
        let statistics = bench
            .host
            .block_on(move || async move { network.statistics().await });
        let lost = [net::DropReason::NoMemory, net::DropReason::SendNoMemory];
        lost.map(|reason| statistics.drops(reason))
            .iter()
            .sum::<u64>()
            + bench.counter("input dropped: no memory")
    };
    let mut fired = 0;
    for nth in 1.. {
        bench.host.block_on(move || async move {
            executor::current().heap().fail_after(nth);
        });
        // The first is lost on its way, or its answer is; the second is answered.
        for _ in 0..2 {
            bench.cable.to_card.push(arp_request());
        }
        bench.cable.event.signal();
        while bench.next_flush()[0][..6] != OUR_MAC {}
        let left = bench.host.block_on(|| async {
            let heap = executor::current().heap();
            let left = heap.fails_after();
            heap.fail_after(0);
            left
        });
        fired += u64::from(left == 0);
        assert_eq!(lost(), fired, "request {nth}");
        if left != 0 {
            break;
        }
    }
    assert!(fired > 2, "{fired}");
    drop(bench);
    // SAFETY: the node is gone, and what it had allocated with it.
    unsafe { arena.release() };
}

#[cfg(all(feature = "process", debug_assertions))]
#[test]
fn of_packets_that_waited_for_an_address_those_that_find_no_memory_are_counted() {
    const COUNT: u64 = 8;
    let mut lost_some = false;
    for nth in 1..=24 {
        // A new node each time, whose queues have no room yet.
        let (_turn, arena) = crate::platform::arena::test_arena(false);
        let bench = bench_on(|node| assert!(node.set_zones(arena.zones())));
        let network = bench.network.clone();
        bench.host.block_on(move || async move {
            let any = "0.0.0.0:0".parse().unwrap();
            let socket = net::UdpSocket::bind(&network, any).await.unwrap();
            let heap = executor::current().heap();
            heap.fail_after(nth);
            for _ in 0..COUNT {
                let _ = socket.send_to(b"data", "192.0.2.9:9".parse().unwrap());
            }
        });
        let lost = || {
            use net::DropReason::{ArpNoMemory, NoMemory, SendNoMemory};
            let network = bench.network.clone();
            let statistics = bench
                .host
                .block_on(move || async move { network.statistics().await });
            let reasons = [NoMemory, SendNoMemory, ArpNoMemory];
            reasons
                .map(|reason| statistics.drops(reason))
                .iter()
                .sum::<u64>()
        };
        // "192.0.2.9 is at OUR_MAC", until it is heard.
        let mut answer = arp_request();
        answer[..6].copy_from_slice(&MAC);
        answer[21] = 2;
        let limit = std::time::Instant::now() + PATIENCE;
        let mut sent = 0;
        while sent + lost() < COUNT {
            assert!(
                std::time::Instant::now() < limit,
                "request {nth}: {sent}, {}",
                lost()
            );
            bench.cable.to_card.push(answer.clone());
            bench.cable.event.signal();
            let frames = bench.flushed.recv_timeout(Duration::from_millis(20));
            let data = |frame: &&Vec<u8>| frame[..6] == OUR_MAC && frame[12..14] == [8, 0];
            sent += frames.iter().flatten().filter(data).count() as u64;
        }
        lost_some |= lost() != 0;
        // What was lost may be the question, which is asked again.
        assert!(lost() <= 1 && sent <= COUNT, "request {nth}: {sent}");
        drop(bench);
        // SAFETY: the node is gone, and what it had allocated with it.
        unsafe { arena.release() };
    }
    assert!(lost_some);
}
