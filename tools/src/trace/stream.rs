//! The decoder of the trace stream: bytes from a pipe that may lose some, to records per CPU.
//!
//! [`Decoder`] is fed as bytes arrive and gives a [`Stream`] at the end. The format, and the
//! encoder in the kernel, are in `executor/src/trace/stream.rs`. Neighbour: `build.rs` turns a
//! [`Stream`] into timelines.
//!
//! Decision: nothing is thrown away silently. A frame that fails its checksum, a hole in the
//! sequence numbers and bytes that are no frame each have a counter in [`Health`] or a [`Gap`] in
//! its CPU, and every output shows them. The alternative, stopping at the first error, would make
//! a trace over a UART useless on the first overrun.

use std::collections::BTreeMap;

use executor::trace::record::{RECORD_LEN, Record};
use executor::trace::stream::{
    CRC_LEN, FrameKind, HEADER_LEN, MAX_ENCODED_LEN, VERSION, crc32, unzigzag,
};

/// Everything that a stream said.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The name of the machine; empty when HELLO was lost.
    pub hostname: String,
    /// Records by CPU. HELLO says how many there are; a CPU beyond that still gets its place.
    pub cpus: Vec<CpuRecords>,
    /// Thread names by the id that spawn records carry.
    pub names: BTreeMap<u32, ThreadName>,
    /// Token names by id.
    pub token_names: BTreeMap<u32, String>,
    /// Whether the END frame arrived.
    pub ended: bool,
    /// What went wrong on the way.
    pub health: Health,
}

/// The name of a thread, and where it is spawned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadName {
    /// The name given to `spawn`.
    pub name: String,
    /// "file:line" of the call of `spawn`.
    pub site: String,
}

/// The records of one CPU, in the order in which it wrote them.
#[derive(Clone, Debug, Default)]
pub struct CpuRecords {
    /// The records.
    pub records: Vec<Record>,
    /// Where records are missing, in order.
    pub gaps: Vec<Gap>,
    /// The sequence number that the next record should have; `None` before the first frame.
    expected: Option<u64>,
}

/// Missing records of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The index in [`CpuRecords::records`] of the first record after the hole.
    pub before: usize,
    /// How many records are missing.
    pub lost: u64,
    /// How many of them the kernel's ring overwrote; the others were lost on the way.
    pub lost_in_ring: u64,
}

/// Counters of what was wrong with the bytes themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Good frames.
    pub frames: u64,
    /// Bytes of all input.
    pub bytes: u64,
    /// Runs of bytes that were not COBS, too short, or too long for a frame.
    pub broken_frames: u64,
    /// Frames whose checksum did not match.
    pub bad_checksums: u64,
    /// Frames with a good checksum that this version does not understand.
    pub unknown_frames: u64,
    /// Records that came twice and were taken once.
    pub repeated_records: u64,
    /// Records of an earlier boot, dropped because the machine started anew.
    pub earlier_boot_records: u64,
}

/// Turns bytes into a [`Stream`].
#[derive(Debug, Default)]
pub struct Decoder {
    stream: Stream,
    /// The bytes since the last 0.
    pending: Vec<u8>,
    /// Set when `pending` grew beyond any frame: skip to the next 0.
    skipping: bool,
    hello_ns: Option<u64>,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.stream.health.bytes += bytes.len() as u64;
        for part in bytes.split_inclusive(|byte| *byte == 0) {
            let (body, complete) = match part.split_last() {
                Some((0, body)) => (body, true),
                _ => (part, false),
            };
            if self.pending.len() + body.len() > MAX_ENCODED_LEN {
                self.skipping = true;
                self.pending.clear();
            }
            if !self.skipping {
                self.pending.extend_from_slice(body);
            }
            if complete {
                self.end_of_frame();
            }
        }
    }

    /// Whether END has arrived: a live reader may stop.
    pub fn ended(&self) -> bool {
        self.stream.ended
    }

    /// How many records have arrived.
    pub fn record_count(&self) -> usize {
        self.stream.cpus.iter().map(|cpu| cpu.records.len()).sum()
    }

    /// The result. Bytes after the last 0 are a frame cut short and count as broken.
    pub fn finish(mut self) -> Stream {
        if self.skipping || !self.pending.is_empty() {
            self.stream.health.broken_frames += 1;
        }
        self.stream
    }

    fn end_of_frame(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.skipping) {
            self.stream.health.broken_frames += 1;
        } else if !pending.is_empty() {
            match cobs_decode(&pending) {
                Some(raw) if raw.len() >= HEADER_LEN + CRC_LEN => self.frame(&raw),
                _ => self.stream.health.broken_frames += 1,
            }
        }
        // Keep the allocation: there are thousands of frames.
        self.pending = pending;
        self.pending.clear();
    }

    fn frame(&mut self, raw: &[u8]) {
        let health = &mut self.stream.health;
        let (body, crc) = raw.split_at(raw.len() - CRC_LEN);
        if crc != crc32(body).to_le_bytes() {
            health.bad_checksums += 1;
            return;
        }
        let (header, payload) = body.split_at(HEADER_LEN);
        let length_matches =
            usize::from(u16::from_le_bytes([header[2], header[3]])) == payload.len();
        let mut fields = Fields(payload);
        let understood = length_matches
            && match FrameKind::from_code(header[0]) {
                Some(FrameKind::Hello) => self.hello(&mut fields),
                Some(FrameKind::Records) => self.records(header[1], &mut fields),
                Some(FrameKind::Name) => self.name(&mut fields),
                Some(FrameKind::TokenName) => self.token_name(&mut fields),
                Some(FrameKind::Stats) => self.stats(header[1], &mut fields),
                Some(FrameKind::End) => {
                    self.stream.ended = true;
                    true
                }
                None => false,
            };
        let health = &mut self.stream.health;
        if understood {
            health.frames += 1;
        } else {
            health.unknown_frames += 1;
        }
    }

    /// A second HELLO with an earlier clock is a reboot: only the last boot is kept, because two
    /// clocks cannot share a timeline.
    fn hello(&mut self, fields: &mut Fields<'_>) -> bool {
        let (Some(version), Some(cpu_count), Some(now_ns)) =
            (fields.u32(), fields.u32(), fields.u64())
        else {
            return false;
        };
        if version != VERSION {
            return false;
        }
        if self.hello_ns.is_some_and(|before| now_ns < before) {
            let mut health = self.stream.health;
            health.earlier_boot_records += self.record_count() as u64;
            self.stream = Stream {
                health,
                ..Stream::default()
            };
        }
        self.hello_ns = Some(now_ns);
        self.stream.ended = false;
        self.stream.hostname = fields.rest_as_text();
        // The CPU is one byte in every other frame.
        let cpu_count = cpu_count.min(256) as usize;
        if self.stream.cpus.len() < cpu_count {
            self.stream.cpus.resize_with(cpu_count, CpuRecords::default);
        }
        true
    }

    fn name(&mut self, fields: &mut Fields<'_>) -> bool {
        let Some(id) = fields.u32() else { return false };
        let text = fields.rest_as_text();
        let (name, site) = text.split_once('\n').unwrap_or((&text, ""));
        let name = ThreadName {
            name: name.to_owned(),
            site: site.to_owned(),
        };
        self.stream.names.insert(id, name);
        true
    }

    fn token_name(&mut self, fields: &mut Fields<'_>) -> bool {
        let Some(id) = fields.u32() else { return false };
        self.stream.token_names.insert(id, fields.rest_as_text());
        true
    }

    fn stats(&mut self, cpu: u8, fields: &mut Fields<'_>) -> bool {
        let (Some(next_sequence), Some(_lost)) = (fields.u64(), fields.u64()) else {
            return false;
        };
        let cpu = self.cpu(cpu);
        if let Some(expected) = cpu.expected
            && next_sequence > expected
        {
            cpu.note_gap(next_sequence - expected, 0);
        }
        cpu.expected = Some(next_sequence.max(cpu.expected.unwrap_or(0)));
        true
    }

    fn records(&mut self, cpu: u8, fields: &mut Fields<'_>) -> bool {
        let (Some(first), Some(lost_before), Some(mut time_ns)) =
            (fields.u64(), fields.u32(), fields.u64())
        else {
            return false;
        };
        let lost_in_ring = u64::from(lost_before);
        let mut repeated = 0;
        let cpu = self.cpu(cpu);
        let expected = cpu.expected.unwrap_or(first.saturating_sub(lost_in_ring));
        if first > expected {
            cpu.note_gap(first - expected, lost_in_ring.min(first - expected));
        }
        let mut sequence = first;
        let whole = loop {
            if fields.0.is_empty() {
                break true;
            }
            let Some(record) = fields.compact_record(&mut time_ns) else {
                break false;
            };
            if sequence >= expected {
                cpu.records.push(record);
            } else {
                repeated += 1;
            }
            sequence = sequence.wrapping_add(1);
        };
        cpu.expected = Some(sequence.max(expected));
        self.stream.health.repeated_records += repeated;
        whole
    }

    fn cpu(&mut self, cpu: u8) -> &mut CpuRecords {
        let cpu = usize::from(cpu);
        if self.stream.cpus.len() <= cpu {
            self.stream.cpus.resize_with(cpu + 1, CpuRecords::default);
        }
        &mut self.stream.cpus[cpu]
    }
}

impl CpuRecords {
    /// Records of one CPU that did not come over a stream, for tests and raw dumps.
    pub fn from_records(records: Vec<Record>) -> Self {
        Self {
            records,
            ..Self::default()
        }
    }

    /// How many records are missing in all.
    pub fn lost(&self) -> u64 {
        self.gaps
            .iter()
            .fold(0, |sum, gap| sum.saturating_add(gap.lost))
    }

    fn note_gap(&mut self, lost: u64, lost_in_ring: u64) {
        let before = self.records.len();
        match self.gaps.last_mut() {
            Some(gap) if gap.before == before => {
                gap.lost = gap.lost.saturating_add(lost);
                gap.lost_in_ring = gap.lost_in_ring.saturating_add(lost_in_ring);
            }
            _ => self.gaps.push(Gap {
                before,
                lost,
                lost_in_ring,
            }),
        }
    }
}

impl Health {
    /// Whether every byte was part of a good frame.
    pub fn is_clean(&self) -> bool {
        self.broken_frames == 0
            && self.bad_checksums == 0
            && self.unknown_frames == 0
            && self.repeated_records == 0
            && self.earlier_boot_records == 0
    }
}

/// Reads a payload from the front; every accessor returns `None` at its end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn compact_record(&mut self, time_ns: &mut u64) -> Option<Record> {
        let head = self.take::<4>()?;
        *time_ns = time_ns.wrapping_add_signed(unzigzag(self.varint()?));
        let arg = u32::try_from(self.varint()?).ok()?;
        let mut bytes = [0; RECORD_LEN];
        bytes[..8].copy_from_slice(&time_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&head);
        bytes[12..].copy_from_slice(&arg.to_le_bytes());
        Some(Record::from_bytes(bytes))
    }

    fn rest_as_text(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned()
    }
}

/// Undoes COBS; `None` when a code byte points beyond the end.
fn cobs_decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&code, tail)) = rest.split_first() {
        let block = tail.get(..usize::from(code).checked_sub(1)?)?;
        raw.extend_from_slice(block);
        rest = &tail[block.len()..];
        if code != 0xff && !rest.is_empty() {
            raw.push(0);
        }
    }
    Some(raw)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
