//! The trace stream: how records leave the machine over a byte pipe that may lose bytes.
//!
//! [`Encoder`] makes frames; the pipe is a second UART, virtio-console or a file. The decoder is
//! on the host, in `tools/src/trace/stream.rs`, and uses [`FrameKind`], [`crc32`] and
//! [`unzigzag`] from here.
//!
//! A frame is the bytes below, COBS-encoded so that no byte is 0, and a 0 that ends it:
//!
//! ```text
//! u8 kind | u8 cpu | u16 payload length | payload | u32 CRC-32 of all before it
//!
//! HELLO      u32 version, u32 CPU count, u64 now in ns, host name
//! RECORDS    u64 sequence number of the first record, u32 lost before it, u64 base time in ns,
//!            then for each: u8 event, u8 small, u16 thread,
//!            varint zigzag(time - time of the one before, base for the first), varint arg
//! NAME       u32 id, thread name, 0x0a, spawn site "file:line"
//! STATS      u64 next sequence number, u64 records lost so far, of this frame's CPU
//! END        nothing: the trace is complete
//! TOKEN NAME u32 id, token name
//! ```
//!
//! Numbers are little-endian. Sequence numbers count the records of one CPU since boot, lost ones
//! too, so that a hole is seen wherever it arose: overwritten in the ring (then "lost before it"
//! names it as well) or on the wire. STATS says where the stream stands: `next sequence number` is
//! the one that the next RECORDS frame of this CPU would begin with. Send one for every CPU after
//! HELLO and before END, and a loss at either end of the stream is seen too.
//!
//! Decision: deltas and varints bring the usual record to 7 bytes, against 16 in the ring; an
//! emulated UART carries about 48,000 such records a second. A real compressor would gain a third
//! more and need memory in a path that must work in a panic.
//! Source: S. Cheshire, M. Baker, "Consistent Overhead Byte Stuffing", 1999; CRC-32 of IEEE 802.3.
#![forbid(unsafe_code)]

use super::record::Record;

/// The version that HELLO names.
pub const VERSION: u32 = 1;
/// The longest payload. Longer names are cut; records go into the next frame.
pub const MAX_PAYLOAD_LEN: usize = 1000;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 4;
/// Bytes after the payload.
pub const CRC_LEN: usize = 4;
/// The longest frame before COBS.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + MAX_PAYLOAD_LEN + CRC_LEN;
/// The longest frame on the wire: a leading 0, one code byte for every 254 bytes begun, and the 0.
pub const MAX_ENCODED_LEN: usize = 1 + MAX_FRAME_LEN + MAX_FRAME_LEN / 254 + 1 + 1;
/// Sequence number, lost count and base time before the records of a RECORDS frame.
pub const RECORDS_PREFIX_LEN: usize = 8 + 4 + 8;
/// Event, small, thread, and two varints at their longest.
const MAX_COMPACT_RECORD_LEN: usize = 4 + 10 + 5;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The stream begins, or begins anew.
    Hello = 1,
    /// Records of one CPU.
    Records = 2,
    /// A thread's name and spawn site.
    Name = 3,
    /// Where the stream of one CPU stands and what it lost.
    Stats = 4,
    /// The stream is complete.
    End = 5,
    /// A token's name.
    TokenName = 6,
}

impl FrameKind {
    /// The kind with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Hello),
            2 => Some(Self::Records),
            3 => Some(Self::Name),
            4 => Some(Self::Stats),
            5 => Some(Self::End),
            6 => Some(Self::TokenName),
            _ => None,
        }
    }
}

/// Builds frames, one at a time, without allocating.
///
/// It is two buffers, about 2 KiB: keep one per stream rather than on a thread's stack. Each method
/// returns the bytes to write, valid until the next call; a writer that takes only part of them
/// must send the rest before the next frame, or the frame is lost (and counted as lost).
pub struct Encoder {
    /// The frame before COBS; `len` bytes of it are in use.
    raw: [u8; MAX_FRAME_LEN],
    len: usize,
    encoded: [u8; MAX_ENCODED_LEN],
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with nothing in it.
    pub const fn new() -> Self {
        Self {
            raw: [0; MAX_FRAME_LEN],
            len: 0,
            encoded: [0; MAX_ENCODED_LEN],
        }
    }

    /// The frame that begins a stream. A 0 goes before it, which ends whatever the pipe held.
    pub fn hello(&mut self, cpu_count: u32, now_ns: u64, hostname: &str) -> &[u8] {
        self.begin(FrameKind::Hello, 0);
        self.put(&VERSION.to_le_bytes());
        self.put(&cpu_count.to_le_bytes());
        self.put(&now_ns.to_le_bytes());
        self.put_text(hostname);
        self.finish()
    }

    /// The name of the threads whose spawn record carries `id`, and where they are spawned.
    pub fn name(&mut self, id: u32, name: &str, site: &str) -> &[u8] {
        self.begin(FrameKind::Name, 0);
        self.put(&id.to_le_bytes());
        self.put_text(name);
        self.put(b"\n");
        self.put_text(site);
        self.finish()
    }

    /// The name of the token `id`.
    pub fn token_name(&mut self, id: u32, name: &str) -> &[u8] {
        self.begin(FrameKind::TokenName, 0);
        self.put(&id.to_le_bytes());
        self.put_text(name);
        self.finish()
    }

    /// Where the stream of `cpu` stands: the next sequence number to be sent, and the records
    /// that its ring lost since boot.
    pub fn stats(&mut self, cpu: u8, next_sequence: u64, lost: u64) -> &[u8] {
        self.begin(FrameKind::Stats, cpu);
        self.put(&next_sequence.to_le_bytes());
        self.put(&lost.to_le_bytes());
        self.finish()
    }

    /// The frame that says that nothing more follows.
    pub fn end(&mut self) -> &[u8] {
        self.begin(FrameKind::End, 0);
        self.finish()
    }

    /// As many of `records` as fit into one frame: the bytes, and how many were taken.
    ///
    /// No record is taken that does not fit, so the rest can follow in the next frame. Returns an
    /// empty slice when there was none. `lost_before` counts what the ring lost since the last
    /// frame of this CPU; `first_sequence` has it counted in already.
    pub fn records(
        &mut self,
        cpu: u8,
        first_sequence: u64,
        lost_before: u32,
        records: &mut dyn Iterator<Item = Record>,
    ) -> (&[u8], usize) {
        let Some(first) = records.next() else {
            return (&[], 0);
        };
        self.begin(FrameKind::Records, cpu);
        self.put(&first_sequence.to_le_bytes());
        self.put(&lost_before.to_le_bytes());
        self.put(&first.time_ns.to_le_bytes());
        let mut taken = 0;
        let mut time_ns = first.time_ns;
        let mut next = Some(first);
        while let Some(record) = next {
            self.put(&record.word.to_le_bytes()[..4]);
            self.put_varint(zigzag(record.time_ns.wrapping_sub(time_ns) as i64));
            self.put_varint(u64::from(record.arg()));
            time_ns = record.time_ns;
            taken += 1;
            let room = HEADER_LEN + MAX_PAYLOAD_LEN - self.len;
            next = if room >= MAX_COMPACT_RECORD_LEN {
                records.next()
            } else {
                None
            };
        }
        (self.finish(), taken)
    }

    /// Starts a frame; the length is filled in by `finish`.
    fn begin(&mut self, kind: FrameKind, cpu: u8) {
        self.raw[..HEADER_LEN].copy_from_slice(&[kind as u8, cpu, 0, 0]);
        self.len = HEADER_LEN;
    }

    /// Appends as much of `bytes` as the payload has room for.
    fn put(&mut self, bytes: &[u8]) {
        let room = HEADER_LEN + MAX_PAYLOAD_LEN - self.len;
        let bytes = &bytes[..bytes.len().min(room)];
        self.raw[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends a name; two of the longest fit into a frame with room to spare.
    fn put_text(&mut self, text: &str) {
        self.put(&text.as_bytes()[..text.len().min(MAX_PAYLOAD_LEN / 2 - 8)]);
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    /// Fills in length and checksum and encodes the frame.
    fn finish(&mut self) -> &[u8] {
        let payload_len = (self.len - HEADER_LEN) as u16;
        self.raw[2..4].copy_from_slice(&payload_len.to_le_bytes());
        let crc = crc32(&self.raw[..self.len]);
        self.raw[self.len..self.len + CRC_LEN].copy_from_slice(&crc.to_le_bytes());
        self.len += CRC_LEN;
        let leading = usize::from(self.raw[0] == FrameKind::Hello as u8);
        self.encoded[0] = 0;
        let len = leading + cobs_encode(&self.raw[..self.len], &mut self.encoded[leading..]);
        &self.encoded[..len]
    }
}

/// COBS-encodes `raw` into `out` with the 0 that ends it, and returns the length.
///
/// `out` must have room for `raw`, one byte for every 254 of it begun, and two more;
/// [`MAX_ENCODED_LEN`] is enough for any frame.
fn cobs_encode(raw: &[u8], out: &mut [u8]) -> usize {
    let mut code_at = 0;
    let mut len = 1;
    for (index, &byte) in raw.iter().enumerate() {
        if byte != 0 {
            out[len] = byte;
            len += 1;
        }
        let full = len - code_at == 0xff && index + 1 < raw.len();
        if byte == 0 || full {
            out[code_at] = (len - code_at) as u8;
            code_at = len;
            len += 1;
        }
    }
    out[code_at] = (len - code_at) as u8;
    out[len] = 0;
    len + 1
}

/// Maps small numbers of either sign to small unsigned ones.
pub const fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The reverse of [`zigzag`].
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The CRC-32 of IEEE 802.3 (reflected, polynomial 0xedb88320), as zlib and Ethernet have it.
///
/// A table of 16 entries: two look-ups a byte, 64 bytes of cache.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 != 0 {
                    value >> 1 ^ 0xedb8_8320
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
        crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::super::record::Event;
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    /// The examples of the COBS paper and of RFC-style tables built on it.
    #[test]
    fn cobs_examples() {
        let check = |raw: &[u8], expected: &[u8]| {
            let mut out = [0xee; 600];
            let len = cobs_encode(raw, &mut out);
            assert_eq!(&out[..len], expected, "{raw:02x?}");
        };
        check(&[], &[1, 0]);
        check(&[0], &[1, 1, 0]);
        check(&[0, 0], &[1, 1, 1, 0]);
        check(&[0x11, 0x22, 0, 0x33], &[3, 0x11, 0x22, 2, 0x33, 0]);
        check(&[0x11, 0, 0, 0], &[2, 0x11, 1, 1, 1, 0]);
        let mut ramp = [0u8; 255];
        for (index, byte) in ramp.iter_mut().enumerate() {
            *byte = index as u8 + 1;
        }
        // 254 bytes without a zero fill one block exactly: no second code byte.
        let mut expected = [0u8; 256];
        expected[0] = 0xff;
        expected[1..255].copy_from_slice(&ramp[..254]);
        check(&ramp[..254], &expected);
        // The 255th byte opens a second block.
        let mut expected = [0u8; 258];
        expected[0] = 0xff;
        expected[1..255].copy_from_slice(&ramp[..254]);
        expected[255..].copy_from_slice(&[2, 0xff, 0]);
        ramp[254] = 0xff;
        check(&ramp, &expected);
    }

    #[test]
    fn zigzag_keeps_small_numbers_small() {
        for (value, expected) in [(0, 0), (-1, 1), (1, 2), (-2, 3)] {
            assert_eq!(zigzag(value), expected);
        }
        for value in [i64::MIN, -5, 0, 7, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn a_frame_holds_no_zero_but_the_last_and_hello_one_before() {
        let mut encoder = Encoder::new();
        let hello = encoder.hello(4, 1_000_000, "anax");
        assert_eq!(hello[0], 0);
        assert!(hello[1..hello.len() - 1].iter().all(|byte| *byte != 0));
        assert_eq!(hello.last(), Some(&0));
        let end = encoder.end();
        assert!(end[..end.len() - 1].iter().all(|byte| *byte != 0));
    }

    #[test]
    fn records_that_do_not_fit_stay_in_the_iterator() {
        let mut encoder = Encoder::new();
        let total = 1000;
        let mut records = (0..total)
            .map(|n| Record::new(n * 0x1234_5678_9abc, Event::Wake, 255, 0xffff, u32::MAX));
        let mut sent = 0;
        loop {
            let (bytes, taken) = encoder.records(3, sent, 0, &mut records);
            if taken == 0 {
                assert!(bytes.is_empty());
                break;
            }
            assert!(bytes.len() <= MAX_ENCODED_LEN);
            assert!(
                taken > 40 || sent + taken as u64 == total,
                "{taken} at {sent}"
            );
            sent += taken as u64;
        }
        assert_eq!(sent, total);
    }

    #[test]
    fn endless_names_are_cut_and_the_frame_stays_whole() {
        let text = core::str::from_utf8(&[b'x'; 4000]).unwrap();
        let mut encoder = Encoder::new();
        let len = encoder.name(7, text, text).len();
        assert!(len > 900 && len <= MAX_ENCODED_LEN, "{len}");
        // The site was not squeezed out by the name: both halves are there around the newline.
        let newline = encoder.raw.iter().position(|byte| *byte == b'\n').unwrap();
        assert_eq!(encoder.raw[newline + 1], b'x');
    }
}
