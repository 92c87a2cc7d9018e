//! The decoder against the kernel's own encoder: whole, cut, damaged, repeated and made up.

use executor::trace::record::Event;
use executor::trace::stream::Encoder;

use super::*;

fn sample(count: u64) -> Vec<Record> {
    (0..count)
        .map(|n| {
            Record::new(
                1_000 + n * 250,
                Event::Wake,
                n as u8,
                n as u16,
                (n * 977) as u32,
            )
        })
        .collect()
}

/// The frames of `records` as written by CPU `cpu`, `per_frame` records in each.
fn frames(cpu: u8, records: &[Record], per_frame: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new();
    let mut frames = Vec::new();
    let mut sequence = 0;
    for chunk in records.chunks(per_frame) {
        let (bytes, taken) = encoder.records(cpu, sequence, 0, &mut chunk.iter().copied());
        assert_eq!(taken, chunk.len());
        frames.push(bytes.to_vec());
        sequence += taken as u64;
    }
    frames
}

fn decode(bytes: &[u8]) -> Stream {
    let mut decoder = Decoder::new();
    decoder.feed(bytes);
    decoder.finish()
}

#[test]
fn everything_arrives_whatever_the_cuts() {
    let records = sample(500);
    let mut encoder = Encoder::new();
    let mut bytes = encoder.hello(2, 5, "anax-a").to_vec();
    bytes.extend_from_slice(encoder.name(9, "netisr", "net/src/lib.rs:42"));
    bytes.extend_from_slice(encoder.token_name(3, "routes"));
    bytes.extend(frames(1, &records, 20).concat());
    bytes.extend_from_slice(encoder.end());
    for step in [1, 7, 1000, bytes.len()] {
        let mut decoder = Decoder::new();
        bytes.chunks(step).for_each(|chunk| decoder.feed(chunk));
        assert!(decoder.ended());
        let stream = decoder.finish();
        assert_eq!(stream.cpus.len(), 2);
        assert_eq!(stream.cpus[1].records, records);
        assert_eq!(stream.hostname, "anax-a");
        assert_eq!(stream.names[&9].site, "net/src/lib.rs:42");
        assert_eq!(stream.names[&9].name, "netisr");
        assert_eq!(stream.token_names[&3], "routes");
        assert!(stream.health.is_clean() && stream.cpus[1].gaps.is_empty());
        assert_eq!(stream.health.frames, 4 + 25);
    }
}

#[test]
fn records_with_backward_times_and_extreme_values_survive() {
    let records = vec![
        Record::new(u64::MAX, Event::Mark, 255, 0xffff, u32::MAX),
        Record::new(0, Event::Mark, 0, 0, 0),
        Record::new(1 << 63, Event::Mark, 1, 1, 1),
    ];
    assert_eq!(
        decode(&frames(0, &records, 3).concat()).cpus[0].records,
        records
    );
}

#[test]
fn garbage_before_and_between_frames_costs_no_frame() {
    let records = sample(60);
    let frames = frames(0, &records, 20);
    // A BIOS that says something on the port, then frames, then a burst of noise that a 0 ends.
    let mut encoder = Encoder::new();
    let mut bytes = b"SeaBIOS (version 1.16)\r\n".to_vec();
    bytes.extend_from_slice(encoder.hello(1, 0, "x"));
    bytes.extend_from_slice(&frames[0]);
    bytes.extend_from_slice(&[0xff; 5000]);
    bytes.push(0);
    bytes.extend_from_slice(&frames[1]);
    bytes.extend_from_slice(b"\x05ab\x00");
    bytes.extend_from_slice(&frames[2]);
    let stream = decode(&bytes);
    assert_eq!(stream.cpus[0].records, records);
    assert_eq!(stream.health.broken_frames, 3);
    assert!(stream.cpus[0].gaps.is_empty());
}

#[test]
fn a_damaged_frame_is_counted_and_leaves_a_gap_of_its_size() {
    let records = sample(60);
    let mut frames = frames(0, &records, 20);
    let middle = frames[1].len() / 2;
    // Any change but one into a 0, which would make two pieces of it.
    frames[1][middle] = if frames[1][middle] == 1 { 2 } else { 1 };
    let stream = decode(&frames.concat());
    let bad = stream.health.bad_checksums + stream.health.broken_frames;
    assert_eq!(bad, 1, "{:?}", stream.health);
    assert_eq!(
        stream.cpus[0].gaps,
        [Gap {
            before: 20,
            lost: 20,
            lost_in_ring: 0
        }]
    );
    assert_eq!(stream.cpus[0].records.len(), 40);
}

#[test]
fn every_single_bit_flip_is_noticed() {
    let records = sample(10);
    let bytes = frames(0, &records, 10).concat();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let stream = decode(&bytes);
        assert!(!stream.health.is_clean(), "bit {bit} was not noticed");
        assert!(
            stream.cpus.iter().all(|cpu| cpu.records.is_empty()),
            "bit {bit}"
        );
    }
}

#[test]
fn what_the_ring_lost_is_told_apart_from_what_the_wire_lost() {
    let records = sample(4);
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    // First frame: 7 were overwritten before it. Then 10 missing, of which the ring owns to 4.
    let (frame, _) = encoder.records(0, 107, 7, &mut records[..2].iter().copied());
    bytes.extend_from_slice(frame);
    let (frame, _) = encoder.records(0, 119, 4, &mut records[2..].iter().copied());
    bytes.extend_from_slice(frame);
    let cpu = &decode(&bytes).cpus[0];
    assert_eq!(
        cpu.gaps,
        [
            Gap {
                before: 0,
                lost: 7,
                lost_in_ring: 7
            },
            Gap {
                before: 2,
                lost: 10,
                lost_in_ring: 4
            }
        ]
    );
    assert_eq!(cpu.lost(), 17);
}

#[test]
fn stats_show_a_loss_at_either_end() {
    let records = sample(4);
    let mut encoder = Encoder::new();
    let mut bytes = encoder.stats(0, 100, 0).to_vec();
    let (frame, _) = encoder.records(0, 103, 0, &mut records.iter().copied());
    bytes.extend_from_slice(frame);
    bytes.extend_from_slice(encoder.stats(0, 112, 0));
    let cpu = &decode(&bytes).cpus[0];
    let gap = |before, lost| Gap {
        before,
        lost,
        lost_in_ring: 0,
    };
    assert_eq!(cpu.gaps, [gap(0, 3), gap(4, 5)]);
}

#[test]
fn a_ring_sent_again_in_a_panic_is_taken_once() {
    let records = sample(40);
    let frames = frames(0, &records, 20);
    let stream = decode(&[&frames[0][..], &frames[1], &frames[0], &frames[1]].concat());
    assert_eq!(stream.cpus[0].records, records);
    assert_eq!(stream.health.repeated_records, 40);
    assert!(stream.cpus[0].gaps.is_empty());
}

#[test]
fn a_reboot_drops_the_earlier_boot_and_says_so() {
    let records = sample(20);
    let mut encoder = Encoder::new();
    let mut bytes = encoder.hello(1, 9_000, "a").to_vec();
    bytes.extend(frames(0, &records, 20).concat());
    bytes.extend_from_slice(encoder.hello(1, 50, "a"));
    bytes.extend(frames(0, &records[..5], 5).concat());
    let stream = decode(&bytes);
    assert_eq!(stream.health.earlier_boot_records, 20);
    assert_eq!(stream.cpus[0].records, records[..5]);
}

/// A million bytes of noise with frames mixed in: no panic, no absurd memory.
#[test]
fn noise_neither_panics_nor_invents_records() {
    let frame = frames(3, &sample(20), 20).concat();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::new();
    for _ in 0..200_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes()[..5]);
        if state.is_multiple_of(10_000) {
            noise.extend_from_slice(&frame);
        }
    }
    let stream = decode(&noise);
    assert!(stream.cpus.iter().all(|cpu| cpu.records.len() <= 20));
    assert!(stream.health.broken_frames > 100);
}
