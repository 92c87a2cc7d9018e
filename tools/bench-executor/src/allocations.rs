//! A counter of allocations, per thread: the proof that an inline call makes none, and what a thread's memory is.
//!
//! It counts for every subject alike, at the price of one addition to a thread-local word. The memory is looked at only
//! while a [`Watch`] is open.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};

use crate::slabs;

struct Counting;

/// Sizes that a watch tells apart; those beyond it are lost, and make the watch useless.
const SIZES: usize = 256;

/// What the host's allocator keeps in front of each object.
const HEADER: i64 = 8;

struct Seen {
    bytes: i64,
    sizes: [(Option<Layout>, i64); SIZES],
}

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen { bytes: 0, sizes: [(None, 0); SIZES] }) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations made by this thread so far.
pub fn count() -> u64 {
    COUNT.with(Cell::get)
}

/// Notes what this thread allocates, and does not free, while it is open. One at a time.
pub struct Watch(());

impl Watch {
    /// Begins.
    pub fn open() -> Self {
        SEEN.with_borrow_mut(|seen| {
            seen.bytes = 0;
            seen.sizes = [(None, 0); SIZES];
        });
        WATCHED.set(true);
        Self(())
    }

    /// Ends, and gives the bytes in use in the host's allocator, with what it rounds up to and keeps in front of each object;
    /// and how many objects of which layout they are.
    pub fn close(self) -> (i64, Vec<(Layout, i64)>) {
        WATCHED.set(false);
        SEEN.with_borrow(|seen| {
            let used = seen.sizes.iter();
            let layouts = used.filter_map(|(layout, count)| Some(((*layout)?, *count)));
            (seen.bytes, layouts.collect())
        })
    }
}

#[cold]
fn note(memory: *mut u8, layout: Layout, count: i64) {
    // SAFETY: the object is the host allocator's, and allocated.
    let usable = unsafe { libc::malloc_usable_size(memory.cast()) };
    SEEN.with_borrow_mut(|seen| {
        seen.bytes += count * (usable as i64 + HEADER);
        let entry = seen
            .sizes
            .iter_mut()
            .find(|(known, _)| known.is_none_or(|known| known == layout));
        if let Some((known, objects)) = entry {
            *known = Some(layout);
            *objects += count;
        }
    });
}

// SAFETY: every call is the system allocator's own, or that of a heap, as the address says; the counters are thread-local words without a
// destructor, so that counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        if !WATCHED.get()
            && let Some(memory) = slabs::allocate(layout)
        {
            return memory;
        }
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc(layout) };
        if WATCHED.get() && !memory.is_null() {
            note(memory, layout, 1);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        if unsafe { slabs::free(memory, layout) } {
            return;
        }
        if WATCHED.get() {
            note(memory, layout, -1);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}
