//! Memory of kernels that live in a process: what the allocator of the vkernel and of the simulator hands out.
//!
//! A process reserves one span of addresses, cut into equal slots; a kernel's [`Arena`] is one of them, and a hard limit:
//! what runs on a CPU of a node allocates from that CPU's heap over the node's arena, as on hardware, and gets nothing
//! when it is used up. Everything else in the process (threads of the host, the simulator's world) uses the host's
//! allocator. Who frees need not be who allocated: the address tells where memory belongs.
//!
//! An arena may be watched: what is allocated is counted, and a bit for every 16 bytes says what is allocated, so that memory handed out twice or freed
//! twice is noticed at once, and what is freed is overwritten. That needs all of a node's CPUs on one host thread.

extern crate std;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::alloc::System;
use std::sync::OnceLock;

use executor::slab::{Heap, ZONE_SIZE, ZoneMap};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Bytes that one bit of a watched arena stands for.
const GRANULE: usize = 16;
/// What freed memory of a watched arena is overwritten with.
const POISON: u8 = 0xdf;

/// What a watched arena has seen go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// Memory was handed out that is in use.
    AllocatedTwice,
    /// Memory was freed that is not in use.
    FreedTwice,
    /// There was none left. (The host's was given instead, so that whoever watches can say so.)
    UsedUp,
}

struct Slot {
    zones: ZoneMap,
    taken: AtomicBool,
    /// Allocations minus frees, while it is watched: a counter that all CPUs write would slow each of them.
    live: AtomicI64,
    /// Bytes, likewise.
    live_bytes: AtomicI64,
    used: OnceLock<Box<[AtomicU64]>>,
    watched: AtomicBool,
    misuse: AtomicU8,
}

static SLOTS: OnceLock<Vec<Slot>> = OnceLock::new();
/// The span; empty until [`reserve`].
static BASE: AtomicUsize = AtomicUsize::new(0);
static LENGTH: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static ABROAD: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, called on a CPU, with the host's allocator: for what outlives the node.
pub fn abroad<R>(f: impl FnOnce() -> R) -> R {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            ABROAD.set(self.0);
        }
    }
    let _back = Back(ABROAD.replace(true));
    f()
}

/// Reserves addresses for `count` arenas of `bytes` each (rounded up to whole zones). Once, before the first arena.
///
/// # Errors
/// The host's, which has no such span of addresses.
///
/// # Panics
/// When called twice.
pub fn reserve(count: usize, bytes: usize) -> Result<(), rustix::io::Errno> {
    let zones = bytes.div_ceil(ZONE_SIZE);
    let length = count * zones * ZONE_SIZE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping, wherever the host likes; never unmapped.
    let memory = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            length + ZONE_SIZE,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )?
    };
    let base = memory.expose_provenance().next_multiple_of(ZONE_SIZE);
    let slot = |number: usize| {
        let bitmap: Vec<_> = (0..ZoneMap::words(zones))
            .map(|_| AtomicU64::new(0))
            .collect();
        let start = ptr::with_exposed_provenance_mut(base + number * zones * ZONE_SIZE);
        // SAFETY: the zones lie in the mapping made above, each in one slot.
        let map = unsafe { ZoneMap::new(start, zones, bitmap.leak()) };
        map.add(0, zones);
        Slot {
            zones: map,
            taken: AtomicBool::new(false),
            live: AtomicI64::new(0),
            live_bytes: AtomicI64::new(0),
            used: OnceLock::new(),
            watched: AtomicBool::new(false),
            misuse: AtomicU8::new(0),
        }
    };
    let slots = (0..count).map(slot).collect();
    assert!(
        SLOTS.set(slots).is_ok(),
        "the addresses are reserved already"
    );
    BASE.store(base, Ordering::Relaxed);
    LENGTH.store(length, Ordering::Release);
    Ok(())
}

fn slots() -> &'static [Slot] {
    SLOTS.get().map_or(&[], Vec::as_slice)
}

/// The slot that an address lies in.
#[inline]
fn slot_of(memory: *mut u8) -> Option<&'static Slot> {
    let offset = memory.addr().wrapping_sub(BASE.load(Ordering::Relaxed));
    let length = LENGTH.load(Ordering::Relaxed);
    if offset >= length {
        return None;
    }
    let slots = slots();
    slots.get(offset / (length / slots.len()))
}

/// The memory of one kernel; goes back by [`Arena::release`] alone.
#[derive(Debug)]
pub struct Arena {
    number: usize,
}

impl Arena {
    /// A free arena; None if all are taken. With `watched`, misuse is noticed.
    #[must_use]
    pub fn take(watched: bool) -> Option<Self> {
        let number = slots()
            .iter()
            .position(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
        let arena = Self { number };
        let slot = arena.slot();
        slot.watched.store(watched, Ordering::Relaxed);
        if watched {
            let words = LENGTH.load(Ordering::Relaxed) / slots().len() / GRANULE / 64;
            let used = slot
                .used
                .get_or_init(|| (0..words).map(|_| AtomicU64::new(0)).collect());
            debug_assert_eq!(used.len(), words);
        }
        Some(arena)
    }

    fn slot(&self) -> &'static Slot {
        &slots()[self.number]
    }

    /// Its zones, for [`executor::Node::set_zones`].
    #[must_use]
    pub fn zones(&self) -> &'static ZoneMap {
        &self.slot().zones
    }

    /// What is allocated, if it is watched: objects and bytes. Both 0 once the node that it belonged to is gone without a leak.
    #[must_use]
    pub fn live(&self) -> (i64, i64) {
        let slot = self.slot();
        (
            slot.live.load(Ordering::Relaxed),
            slot.live_bytes.load(Ordering::Relaxed),
        )
    }

    /// What has gone wrong, if it is watched.
    #[must_use]
    pub fn misuse(&self) -> Option<Misuse> {
        match self.slot().misuse.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Misuse::AllocatedTwice),
            2 => Some(Misuse::FreedTwice),
            _ => Some(Misuse::UsedUp),
        }
    }

    /// Gives it back. Nothing of it may be in use any more.
    ///
    /// # Safety
    /// The node that it belonged to is gone, and whatever else was allocated on its CPUs is never touched again.
    pub unsafe fn release(self) {
        let slot = self.slot();
        // SAFETY: the caller's promise.
        unsafe { slot.zones.reset() };
        for word in slot.used.get().into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
        slot.live.store(0, Ordering::Relaxed);
        slot.live_bytes.store(0, Ordering::Relaxed);
        slot.misuse.store(0, Ordering::Relaxed);
        slot.taken.store(false, Ordering::Release);
    }
}

impl Slot {
    #[inline]
    fn note(&self, memory: *mut u8, layout: Layout, allocated: bool) {
        if self.watched.load(Ordering::Relaxed) {
            self.watch(memory, layout, allocated);
        }
    }

    #[cold]
    fn watch(&self, memory: *mut u8, layout: Layout, allocated: bool) {
        let sign = if allocated { 1 } else { -1 };
        self.live.fetch_add(sign, Ordering::Relaxed);
        self.live_bytes
            .fetch_add(sign * layout.size() as i64, Ordering::Relaxed);
        let Some(used) = self.used.get() else { return };
        let offset = (memory.addr() - BASE.load(Ordering::Relaxed)) % (used.len() * 64 * GRANULE);
        let (mut at, end) = (
            offset / GRANULE,
            (offset + layout.size().max(1)).div_ceil(GRANULE),
        );
        let mut wrong = false;
        while at < end {
            let count = (64 - at % 64).min(end - at);
            let bits = (u64::MAX >> (64 - count)) << (at % 64);
            let word = used[at / 64].load(Ordering::Relaxed);
            let (expected, new) = if allocated {
                (0, word | bits)
            } else {
                (bits, word & !bits)
            };
            wrong |= word & bits != expected;
            used[at / 64].store(new, Ordering::Relaxed);
            at += count;
        }
        if wrong {
            self.misuse
                .store(if allocated { 1 } else { 2 }, Ordering::Relaxed);
        }
    }
}

/// Notes what a heap over `zones` hands out. False: the arena is watched, and has seen something go wrong.
#[inline]
fn noted(zones: &'static ZoneMap, memory: *mut u8, layout: Layout) -> bool {
    match slot_of(memory).filter(|slot| ptr::eq(&slot.zones, zones)) {
        Some(slot) => {
            slot.note(memory, layout, true);
            slot.misuse.load(Ordering::Relaxed) == 0
        }
        // Zones that are no arena's, or memory from nowhere.
        None => watched_slot(zones)
            .inspect(|slot| slot.misuse.store(1, Ordering::Relaxed))
            .is_none(),
    }
}

/// The slot that these zones are of, if it is watched.
#[cold]
fn watched_slot(zones: &'static ZoneMap) -> Option<&'static Slot> {
    let mut slots = slots().iter();
    let slot = slots.find(|slot| ptr::eq(&slot.zones, zones));
    slot.filter(|slot| slot.watched.load(Ordering::Relaxed))
}

/// The allocator of a process that holds kernels.
pub struct HostedHeap;

#[global_allocator]
static HEAP: HostedHeap = HostedHeap;

// SAFETY: memory comes from the host's allocator or from the current CPU's heap, used on that CPU in a critical section;
// the address says which, and of whose arena, so that each piece goes back to where it came from.
unsafe impl GlobalAlloc for HostedHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // AddressSanitizer knows its own allocator: there is more for it to find. A test that fails needs more memory to
        // say so than its node has.
        let abroad = ABROAD.get() || cfg!(asan) || (cfg!(test) && std::thread::panicking());
        let cpu = executor::try_current().filter(|_| !abroad);
        let Some((cpu, zones)) = cpu.and_then(|cpu| Some((cpu, cpu.node().zones()?))) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: see above.
        let memory = unsafe { cpu.allocate(zones, layout) };
        let Some(memory) = memory else {
            return match watched_slot(zones) {
                Some(slot) => {
                    slot.misuse.store(3, Ordering::Relaxed);
                    // SAFETY: the caller's promise.
                    unsafe { System.alloc(layout) }
                }
                None => ptr::null_mut(),
            };
        };
        if noted(zones, memory.as_ptr(), layout) {
            return memory.as_ptr();
        }
        // What the lists say is not to be believed any more; whoever watches will stop this node soon.
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let (Some(slot), Some(object)) = (slot_of(memory), NonNull::new(memory)) else {
            // SAFETY: not of an arena, so it is the host allocator's.
            return unsafe { System.dealloc(memory, layout) };
        };
        slot.note(memory, layout, false);
        if slot.watched.load(Ordering::Relaxed) {
            if slot.misuse.load(Ordering::Relaxed) != 0 {
                // Found out already; as in `alloc`.
                return;
            }
            // SAFETY: freed by the caller, so ours to write.
            unsafe { memory.write_bytes(POISON, layout.size()) };
        }
        let own = |zones: &&'static ZoneMap| ptr::eq(*zones, &slot.zones);
        let cpu =
            executor::try_current().filter(|cpu| cpu.node().zones().as_ref().is_some_and(own));
        match cpu {
            // SAFETY: the address is in this slot, so it came from a heap over these zones; see above.
            Some(cpu) => unsafe { cpu.free(&slot.zones, object, layout) },
            // SAFETY: as above.
            None => unsafe { Heap::free_from_outside(&slot.zones, object, layout) },
        }
    }
}

/// The one arena of a process of tests, 4 MiB, and the turn to use it.
#[cfg(test)]
pub(crate) fn test_arena(watched: bool) -> (std::sync::MutexGuard<'static, ()>, Arena) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if SLOTS.get().is_none() {
        reserve(1, 4 << 20).unwrap();
    }
    (turn, Arena::take(watched).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor::hosted;

    /// What a node in this arena finds: memory inside, and whether so much was refused.
    fn lives_in(arena: &Arena, bytes: usize) -> (bool, bool, Box<[u8; 100]>) {
        let host = hosted::Hosted::start(hosted::Options::default());
        assert!(host.node().set_zones(arena.zones()));
        host.block_on(move || async move {
            let one = Box::new([1_u8; 100]);
            let inside = slot_of(ptr::from_ref(&*one).cast_mut().cast()).is_some();
            let mut large = Vec::<u8>::new();
            let refused = large.try_reserve(bytes).is_err();
            (inside, refused, one)
        })
    }

    #[test]
    fn a_node_allocates_from_its_arena_until_that_is_used_up() {
        let (_turn, arena) = test_arena(false);
        assert!(Arena::take(false).is_none(), "there is one slot");
        let (inside, refused, one) = lives_in(&arena, 8 << 20);
        assert!(inside && refused);
        drop(one);
        // SAFETY: the node is gone.
        unsafe { arena.release() };
    }

    #[test]
    fn a_watched_arena_knows_what_is_allocated() {
        let (_turn, arena) = test_arena(true);
        let (inside, refused, one) = lives_in(&arena, 1 << 20);
        assert!(inside && !refused);
        assert_eq!((arena.live(), arena.misuse()), ((1, 100), None));
        // Freed by a thread that is no CPU.
        drop(one);
        assert_eq!(arena.live(), (0, 0));
        // SAFETY: the node is gone.
        unsafe { arena.release() };
    }

    #[test]
    fn a_watched_arena_says_that_it_is_used_up_and_the_node_goes_on() {
        let (_turn, arena) = test_arena(true);
        let (inside, refused, _) = lives_in(&arena, 8 << 20);
        assert!(inside && !refused);
        assert_eq!(arena.misuse(), Some(Misuse::UsedUp));
        // SAFETY: the node is gone.
        unsafe { arena.release() };
    }
}
