//! Object caches: objects that stay constructed between two uses.
//!
//! Each CPU has a magazine, a stack of objects, of its own: [`get`](ObjectCache::get) takes the one put back last, and
//! constructs one only if there is none; [`put`](ObjectCache::put) puts one back into the magazine of the CPU it is called on,
//! whichever it came from. What finds a full magazine is dropped, and its memory goes home as all memory does.
//!
//! Worth it where construction costs much more than an allocation, which here is a few nanoseconds: for page tables or
//! rings, say. Packet buffers are not: there is nothing in them to keep. A depot, from which a CPU that only gets takes
//! full magazines of a CPU that only puts, is left out until somebody needs it. Source: DragonFly `kern_objcache.c`
//! (magazines after Bonwick and Adams, "Magazines and Vmem", USENIX 2001), which calls the back end and the
//! constructor as late, and has the depot.

use super::{may_fail, try_box};
use crate::{CpuId, CpuLocal, Node, stats::Counter};
use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use core::{cell::RefCell, fmt};

type Construct<T> = dyn Fn() -> Option<T> + Send + Sync;

/// Constructed objects of one kind, for all CPUs of a node.
pub struct ObjectCache<T> {
    magazines: CpuLocal<Magazine<T>>,
    construct: Box<Construct<T>>,
}

/// One CPU's objects, the last one put back on top. Its room is made in advance, so that putting back needs no memory.
struct Magazine<T> {
    objects: RefCell<Vec<Box<T>>>,
    capacity: usize,
    gets: Counter,
    constructed: Counter,
    overflowed: Counter,
    failures: Counter,
}

/// The numbers of an object cache on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Objects in the magazine.
    pub held: usize,
    /// Objects given out.
    pub gets: u64,
    /// Those of them that had to be constructed.
    pub constructed: u64,
    /// Objects dropped because the magazine was full.
    pub overflowed: u64,
    /// Times that there was no memory for an object.
    pub failures: u64,
}

impl<T: Send> ObjectCache<T> {
    /// A cache for `node` of at most `capacity` objects on each CPU; all are made by `construct`, which says None when it
    /// finds no memory.
    ///
    /// # Errors
    /// There is no memory for the magazines.
    pub fn new(
        node: &Node,
        capacity: usize,
        construct: impl Fn() -> Option<T> + Send + Sync + 'static,
    ) -> Result<Self, TryReserveError> {
        let mut rooms = Vec::new();
        for _ in 0..node.cpu_count() {
            let mut room = Vec::new();
            may_fail(|| room.try_reserve_exact(capacity))?;
            rooms.push(room);
        }
        let magazine = |_: CpuId| Magazine {
            objects: RefCell::new(rooms.pop().unwrap_or_default()),
            capacity,
            gets: Counter::new(),
            constructed: Counter::new(),
            overflowed: Counter::new(),
            failures: Counter::new(),
        };
        Ok(Self {
            magazines: CpuLocal::new(node, magazine),
            construct: Box::new(construct),
        })
    }

    /// An object, as it was put back or as it was constructed. None: there is no memory for one, which is counted.
    ///
    /// # Panics
    /// Outside of every CPU of the node.
    pub fn get(&self) -> Option<Box<T>> {
        let kept = self.magazines.with(|magazine| {
            let kept = magazine.objects.borrow_mut().pop();
            magazine.gets.add(u64::from(kept.is_some()));
            kept
        });
        // The constructor runs in no critical section: it may take its time.
        kept.or_else(|| {
            let new = (self.construct)().and_then(|object| try_box(object).ok());
            self.magazines.with(|magazine| match &new {
                Some(_) => {
                    magazine.gets.add(1);
                    magazine.constructed.add(1);
                }
                None => magazine.failures.add(1),
            });
            new
        })
    }

    /// Puts an object back, in the state in which the next user should find it. Needs no memory.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn put(&self, object: Box<T>) {
        // One too many is dropped outside of the section.
        let _overflow = self.magazines.with(|magazine| {
            let mut objects = magazine.objects.borrow_mut();
            if objects.len() == magazine.capacity {
                magazine.overflowed.add(1);
                return Some(object);
            }
            objects.push(object);
            None
        });
    }

    /// The numbers of the current CPU.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn stats(&self) -> CacheStats {
        self.magazines.with(|magazine| CacheStats {
            held: magazine.objects.borrow().len(),
            gets: magazine.gets.get(),
            constructed: magazine.constructed.get(),
            overflowed: magazine.overflowed.get(),
            failures: magazine.failures.get(),
        })
    }
}

impl<T> fmt::Debug for ObjectCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectCache").finish_non_exhaustive()
    }
}
