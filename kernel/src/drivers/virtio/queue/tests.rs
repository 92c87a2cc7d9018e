//! The queue against a device that behaves and one that does not.

use super::super::fake::{FakeDevice, FakeOptions, FakeTransport};
use super::super::transport::{feature, finish, negotiate};
use super::*;
use crate::drivers::dma::fake::FakeDma;
use core::time::Duration;
use std::thread;

const BUFFER_BYTES: usize = 64;

struct Bench {
    dma: FakeDma,
    device: FakeDevice,
    transport: FakeTransport,
    queue: SplitQueue<u32>,
}

fn bench(event_idx: bool) -> Bench {
    let dma = FakeDma::new();
    let event = if event_idx { feature::EVENT_IDX } else { 0 };
    let features = feature::VERSION_1 | event;
    let device = FakeDevice::new(
        &dma,
        FakeOptions {
            features,
            ..Default::default()
        },
    );
    let mut transport = device.transport();
    negotiate(&mut transport, event, feature::VERSION_1).unwrap();
    let options = QueueOptions {
        index: 0,
        max_size: 256,
        buffer_bytes: BUFFER_BYTES,
        event_idx,
        vector: Some(1),
    };
    let queue = SplitQueue::create(&mut transport, &dma.handle(), options).unwrap();
    finish(&mut transport);
    Bench {
        dma,
        device,
        transport,
        queue,
    }
}

fn to_device(slot: usize, len_bytes: u32) -> Segment {
    Segment {
        offset: slot * BUFFER_BYTES,
        len_bytes,
        direction: Direction::ToDevice,
    }
}

fn from_device(slot: usize, len_bytes: u32) -> Segment {
    Segment {
        offset: slot * BUFFER_BYTES,
        len_bytes,
        direction: Direction::FromDevice,
    }
}

#[test]
fn a_chain_reaches_the_device_and_its_token_comes_back() {
    let Bench {
        dma,
        device,
        mut transport,
        mut queue,
    } = bench(true);
    queue.memory().write(0, b"question").unwrap();
    queue
        .add(&[to_device(0, 8), from_device(1, 64)], 77)
        .unwrap();
    assert_eq!(queue.free_descriptors(), 6);
    assert!(queue.should_notify());
    transport.notify(0);

    let chain = device.take(0).unwrap();
    assert_eq!(device.read_chain(&chain), b"question");
    let written = device.write_chain(&chain, b"answer");
    assert_eq!(queue.pop_used(), Ok(None));
    device.complete(0, chain.head, written);
    assert_eq!(device.interrupts(0), 1);

    assert_eq!(
        queue.pop_used(),
        Ok(Some(Used {
            token: 77,
            written_bytes: 6
        }))
    );
    let mut answer = [0; 6];
    queue.memory().read(BUFFER_BYTES, &mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    assert_eq!((queue.free_descriptors(), queue.requests()), (8, 0));

    queue.release(&transport.reset().unwrap());
    assert_eq!(dma.allocated_bytes(), 0);
}

#[test]
fn a_queue_without_proof_of_reset_keeps_its_memory() {
    let Bench { dma, queue, .. } = bench(true);
    drop(queue);
    assert!(dma.allocated_bytes() > 0);
}

#[test]
fn completions_may_come_in_any_order_and_indices_wrap() {
    for event_idx in [false, true] {
        let Bench {
            device, mut queue, ..
        } = bench(event_idx);
        let mut completed = 0_u32;
        for round in 0..12_000_u32 {
            for slot in 0..8 {
                queue
                    .add(&[from_device(slot, 8)], round * 8 + slot as u32)
                    .unwrap();
            }
            assert_eq!(queue.add(&[from_device(0, 8)], 0), Err(AddError::Full));
            let mut chains: Vec<_> = core::iter::from_fn(|| device.take(0)).collect();
            chains.rotate_left(round as usize % 8);
            for chain in &chains {
                device.complete(0, chain.head, 8);
            }
            let mut seen = [false; 8];
            while let Some(used) = queue.pop_used().unwrap() {
                seen[(used.token - round * 8) as usize] = true;
                completed += 1;
            }
            assert_eq!(seen, [true; 8]);
        }
        assert_eq!(completed, 96_000, "past one wrap of the 16-bit index");
    }
}

#[test]
fn bad_segments_are_refused_and_nothing_is_published() {
    let Bench {
        device, mut queue, ..
    } = bench(true);
    let end = queue.memory().len();
    let beyond = Segment {
        offset: end - 4,
        len_bytes: 5,
        direction: Direction::ToDevice,
    };
    let overflow = Segment {
        offset: usize::MAX,
        len_bytes: 1,
        direction: Direction::ToDevice,
    };
    for segments in [
        &[][..],
        &[to_device(0, 0)],
        &[beyond],
        &[overflow],
        &[from_device(0, 1), to_device(1, 1)],
    ] {
        assert_eq!(queue.add(segments, 0), Err(AddError::BadSegment));
    }
    let nine: Vec<_> = (0..9).map(|slot| to_device(slot, 1)).collect();
    assert_eq!(queue.add(&nine, 0), Err(AddError::Full));
    assert_eq!(device.available(0), 0);
}

#[test]
fn doorbells_follow_the_devices_wish() {
    for event_idx in [false, true] {
        let Bench {
            device, mut queue, ..
        } = bench(event_idx);
        assert!(!queue.should_notify(), "nothing added");
        assert!(!device.want_doorbells(0, true));
        queue.add(&[from_device(0, 1)], 0).unwrap();
        queue.add(&[from_device(1, 1)], 1).unwrap();
        assert!(queue.should_notify());
        assert!(!queue.should_notify(), "one doorbell covers both");

        // The device is awake and polls: no doorbell.
        device.take(0).unwrap();
        device.take(0).unwrap();
        device.want_doorbells(0, false);
        queue.add(&[from_device(2, 1)], 2).unwrap();
        assert!(!queue.should_notify());

        // It runs dry and asks again: the refill must ring.
        device.take(0).unwrap();
        assert!(!device.want_doorbells(0, true));
        queue.add(&[from_device(3, 1)], 3).unwrap();
        assert!(queue.should_notify());
    }
}

/// The doorbell race, from the device's side: it looks, finds nothing, and asks for doorbells while
/// the driver adds. Either its second look or the driver's `should_notify` must see the other.
#[test]
fn needs_event_is_exact_around_the_wrap() {
    for old in [0_u16, 1, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff] {
        for added in 1..=5_u16 {
            let new = old.wrapping_add(added);
            for back in 0..10_u16 {
                let event = new.wrapping_sub(back);
                // The event is passed if it is one of old, old + 1, .. new - 1.
                let passed = (0..added).any(|step| old.wrapping_add(step) == event);
                assert_eq!(needs_event(event, new, old), passed, "{event} {old}..{new}");
            }
        }
    }
}

/// The lost interrupt: a completion after the driver's last look and before it asks for interrupts
/// raises none, so asking must look again.
#[test]
fn a_completion_before_enabling_interrupts_is_seen() {
    for event_idx in [false, true] {
        let Bench {
            device, mut queue, ..
        } = bench(event_idx);
        queue.add(&[from_device(0, 8)], 1).unwrap();
        queue.suppress_interrupts();
        let chain = device.take(0).unwrap();
        assert_eq!(queue.pop_used(), Ok(None));
        device.complete(0, chain.head, 8);
        assert_eq!(device.interrupts(0), 0, "suppressed");
        assert!(queue.enable_interrupts(), "the driver must not sleep now");
        assert_eq!(queue.pop_used().unwrap().unwrap().token, 1);
        assert!(!queue.enable_interrupts());

        queue.add(&[from_device(0, 8)], 2).unwrap();
        let chain = device.take(0).unwrap();
        device.complete(0, chain.head, 8);
        assert_eq!(device.interrupts(0), 1, "enabled");
    }
}

/// Both races with real threads: the driver keeps the ring full and sleeps for interrupts, the
/// device sleeps for doorbells. A lost one of either kind ends in a timeout.
#[test]
fn driver_and_device_threads_never_sleep_through_work() {
    const REQUESTS: u32 = 20_000;
    const PATIENCE: Duration = Duration::from_secs(10);
    for event_idx in [false, true] {
        let Bench {
            dma,
            device,
            mut transport,
            mut queue,
        } = bench(event_idx);
        let worker = device.clone();
        let device_thread = thread::spawn(move || {
            let mut done = 0;
            while done < REQUESTS {
                let seen = worker.doorbells(0);
                while let Some(chain) = worker.take(0) {
                    worker.want_doorbells(0, false);
                    let written = worker.write_chain(&chain, &done.to_le_bytes());
                    worker.complete(0, chain.head, written);
                    done += 1;
                }
                if !worker.want_doorbells(0, true) && done < REQUESTS {
                    assert!(
                        worker.wait_doorbell(0, seen, PATIENCE),
                        "doorbell lost at {done}"
                    );
                }
            }
        });
        let (mut added, mut done) = (0, 0);
        let mut free: Vec<u32> = (0..8).collect();
        while done < REQUESTS {
            let seen = device.interrupts(0);
            queue.suppress_interrupts();
            while let Some(used) = queue.pop_used().unwrap() {
                let mut bytes = [0; 4];
                queue
                    .memory()
                    .read(used.token as usize * BUFFER_BYTES, &mut bytes)
                    .unwrap();
                assert_eq!(u32::from_le_bytes(bytes), done);
                free.push(used.token);
                done += 1;
            }
            while added < REQUESTS
                && let Some(slot) = free.pop()
            {
                queue.add(&[from_device(slot as usize, 4)], slot).unwrap();
                added += 1;
            }
            if queue.should_notify() {
                transport.notify(0);
            }
            if !queue.enable_interrupts() && done < REQUESTS {
                assert!(
                    device.wait_interrupt(0, seen, PATIENCE),
                    "interrupt lost at {done}"
                );
            }
        }
        device_thread.join().unwrap();
        queue.release(&transport.reset().unwrap());
        assert_eq!(dma.allocated_bytes(), 0);
    }
}

#[test]
fn each_lie_is_named_and_breaks_the_queue() {
    type Lie = fn(&FakeDevice, u16);
    let lies: [(QueueError, Lie); 5] = [
        (QueueError::IndexJump, |device, _| {
            device.set_used_index(0, 2)
        }),
        (QueueError::IndexJump, |device, _| {
            device.set_used_index(0, 0xffff)
        }),
        (QueueError::IdOutOfRange, |device, _| {
            device.claim(0, 0, 0x1_0000, 0);
            device.set_used_index(0, 1);
        }),
        (QueueError::NotInFlight, |device, head| {
            device.claim(0, 0, u32::from(head) + 1, 0);
            device.set_used_index(0, 1);
        }),
        (QueueError::LengthOverBuffer, |device, head| {
            device.complete(0, head, 9)
        }),
    ];
    for (error, lie) in lies {
        let Bench {
            device, mut queue, ..
        } = bench(true);
        queue.add(&[from_device(0, 8)], 1).unwrap();
        let chain = device.take(0).unwrap();
        lie(&device, chain.head);
        assert_eq!(queue.pop_used(), Err(error));
        assert_eq!(queue.pop_used(), Err(error), "broken for good");
        assert_eq!(queue.broken(), Some(error));
        assert_eq!(
            queue.add(&[from_device(0, 8)], 1),
            Err(AddError::Broken(error))
        );
        assert!(!queue.should_notify() && !queue.enable_interrupts());
    }
}

#[test]
fn a_duplicate_completion_is_caught() {
    let Bench {
        device, mut queue, ..
    } = bench(true);
    queue.add(&[from_device(0, 8)], 1).unwrap();
    queue.add(&[from_device(1, 8)], 2).unwrap();
    let chain = device.take(0).unwrap();
    device.complete(0, chain.head, 8);
    device.complete(0, chain.head, 8);
    assert_eq!(queue.pop_used().unwrap().unwrap().token, 1);
    assert_eq!(queue.pop_used(), Err(QueueError::NotInFlight));
}

/// Random used rings, random indices, real completions in between: never a panic, never a token
/// twice, never a length beyond its buffer, and the driver's own books always balance.
#[test]
fn random_used_rings_do_no_harm() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut broken, mut honest) = (0_u32, 0_u32);
    let mut bench_now = bench(true);
    for step in 0..100_000_u32 {
        let Bench { device, queue, .. } = &mut bench_now;
        let _ = queue.add(&[from_device(0, 8), from_device(1, 8)], step);
        match random.next() % 4 {
            0 => {
                let (index, id) = (random.next() as u16, random.next() as u32 % 12);
                device.claim(0, index, id, random.next() as u32 % 24);
                let used = device.used_index(0);
                device.set_used_index(0, used.wrapping_add((random.next() % 4) as u16));
            }
            1 if random.next().is_multiple_of(64) => device.set_used_index(0, random.next() as u16),
            _ => device.complete_blindly(0, 16),
        }
        loop {
            match queue.pop_used() {
                Ok(Some(used)) => {
                    assert!(used.token <= step && used.written_bytes <= 16);
                    honest += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    broken += 1;
                    bench_now = bench(step % 2 == 0);
                    break;
                }
            }
        }
        let queue = &bench_now.queue;
        assert_eq!(
            queue.free_descriptors() + 2 * queue.requests(),
            queue.size()
        );
    }
    assert!(broken > 1000 && honest > 1000, "{broken} {honest}");
}

/// A small generator (splitmix64); the seed is the test's.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
