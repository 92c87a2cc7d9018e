//! Size classes: which requests share a zone, and where its objects lie.
//!
//! Up to 128 bytes in steps of 16, then four classes to each doubling up to 16 KiB: at most a fifth is wasted, where a
//! power of two wastes a half. (DragonFly has 72 classes, eight to a doubling.) Larger requests get whole zones.

use super::{ZONE_SIZE, checks};
use core::alloc::Layout;

/// The largest object carved from a zone, in bytes.
pub(super) const LARGEST: usize = 16 * 1024;
/// How many classes there are.
pub(super) const CLASSES: usize = 36;
/// Bytes of a zone before its first object and the records of the checks.
pub(super) const HEADER: usize = 128;

/// Requests up to this many bytes find their class in a table; above, four to a doubling, it is two shifts.
const TABULATED: usize = 1024;
const TABLE: [u8; TABULATED / 16 + 1] = {
    let mut table = [0; TABULATED / 16 + 1];
    let (mut at, mut class) = (0, 0);
    while at < table.len() {
        if at * 16 > size(class) {
            class += 1;
        }
        table[at] = class as u8;
        at += 1;
    }
    table
};

/// What is known of each class.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of an object.
    pub(super) size: u32,
    /// The offset of the first object in its zone: powers of two are aligned to their size.
    pub(super) first: u32,
    /// Objects in a zone.
    pub(super) capacity: u32,
    /// Objects of another CPU that are gathered before they are sent home: 8 KiB, at most 64.
    pub(super) batch: u32,
}

/// By class.
pub(super) const SHAPES: [Shape; CLASSES] = {
    let mut shapes = [shape(0); CLASSES];
    let mut class = 0;
    while class < CLASSES {
        shapes[class] = shape(class);
        class += 1;
    }
    shapes
};

const fn size(class: usize) -> usize {
    if class < 8 {
        (class + 1) * 16
    } else {
        let (doubling, quarter) = ((class - 8) / 4, (class - 8) % 4);
        (128 << doubling) + (quarter + 1) * (32 << doubling)
    }
}

const fn shape(class: usize) -> Shape {
    let size = size(class);
    let records = (ZONE_SIZE - HEADER) / (size + checks::RECORD);
    let align = if size.is_power_of_two() { size } else { 16 };
    let first = (HEADER + records * checks::RECORD).next_multiple_of(align);
    // What rounding leaves may hold one more object, for which there is no record.
    let room = (ZONE_SIZE - first) / size;
    let capacity = if room < records { room } else { records };
    let batch = 8192 / size;
    Shape {
        size: size as u32,
        first: first as u32,
        capacity: capacity as u32,
        batch: if batch == 0 {
            1
        } else if batch > 64 {
            64
        } else {
            batch as u32
        },
    }
}

/// The class of a request, or None if it gets whole zones.
///
/// A request with a larger alignment than 16 is rounded up to a power of two, whose objects lie at multiples of their
/// size.
#[inline(always)]
pub(super) fn class_of(layout: Layout) -> Option<usize> {
    let mut size = layout.size();
    if layout.align() > 16 {
        size = size.max(layout.align()).next_power_of_two();
    }
    if size <= TABULATED {
        Some(usize::from(TABLE[size.div_ceil(16)]))
    } else if size <= LARGEST {
        // The doubling, then which quarter of it.
        let doubling = (usize::BITS - 1 - (size - 1).leading_zeros()) as usize;
        let quarter = ((size - 1) >> (doubling - 2)) & 3;
        Some(8 + (doubling - 7) * 4 + quarter)
    } else {
        None
    }
}

/// How many zones a large request gets.
pub(super) const fn zones_for(size: usize) -> usize {
    if size == 0 {
        1
    } else {
        size.div_ceil(ZONE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("valid")
    }

    #[test]
    fn classes_cover_every_size_with_little_waste() {
        for bytes in 0..=LARGEST {
            let class = class_of(layout(bytes, 8)).expect("a class");
            let got = size(class);
            assert!(got >= bytes, "{bytes} got {got}");
            assert!(
                bytes <= 128 || got * 4 <= bytes * 5 + 4,
                "{bytes} wastes {}",
                got - bytes
            );
            assert!(
                class == 0 || size(class - 1) < bytes,
                "{bytes} fits a smaller class"
            );
        }
        assert_eq!(class_of(layout(LARGEST, 8)), Some(CLASSES - 1));
        assert_eq!(class_of(layout(LARGEST + 1, 8)), None);
        assert_eq!(class_of(layout(1, LARGEST)), Some(CLASSES - 1));
        assert_eq!(class_of(layout(1, 2 * LARGEST)), None);
    }

    #[test]
    fn objects_lie_behind_the_header_and_inside_the_zone() {
        for shape in SHAPES {
            let (first, size) = (shape.first as usize, shape.size as usize);
            let records = shape.capacity as usize * checks::RECORD;
            assert!(first >= HEADER + records, "{size}");
            assert!(
                first + shape.capacity as usize * size <= ZONE_SIZE,
                "{size}"
            );
            assert!(shape.capacity >= 3, "{size}");
            assert!(
                !size.is_power_of_two() || first.is_multiple_of(size),
                "{size}"
            );
            assert!(first.is_multiple_of(16) && shape.batch >= 1);
        }
    }
}
