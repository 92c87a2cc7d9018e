//! The allocator as a kernel uses it: every allocation of these tests that is made on a CPU comes from that CPU's heap.
//!
//! The heap against a model, batch by batch, is in `src/slab/heap/tests.rs`; what is here needs CPUs.

use executor::{
    Cpu, CpuId, Message, Mobile, Port, critical, current,
    hosted::{Hosted, Options},
    run_on,
    slab::{Heap, ObjectCache, ZONE_SIZE, ZoneMap, may_fail, try_box},
    sleep, spawn, spawn_movable, spawn_on, yield_now,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

mod later;

use later::Later;

/// The zones of every node of these tests, for memory to find its way home.
static MAPS: [AtomicPtr<ZoneMap>; 32] = [const { AtomicPtr::new(ptr::null_mut()) }; 32];

fn map_of(memory: *mut u8) -> Option<&'static ZoneMap> {
    let maps = MAPS.iter().map(|map| map.load(Ordering::Acquire));
    // SAFETY: maps are never dropped.
    let mut maps = maps.map_while(|map| unsafe { map.as_ref() });
    maps.find(|map| map.contains(memory))
}

struct CpusHeap;

#[global_allocator]
static HEAP: CpusHeap = CpusHeap;

// SAFETY: memory comes from the host or from the current CPU's heap, and goes back to where it came from.
unsafe impl GlobalAlloc for CpusHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A test that fails needs more memory to say so than its node has.
        let here = executor::try_current().filter(|_| !std::thread::panicking());
        let here = here.and_then(|cpu| Some((cpu, cpu.node().zones()?)));
        match here {
            Some((cpu, zones)) => {
                // SAFETY: this is the current CPU; these are its node's zones.
                let memory = unsafe { cpu.allocate(zones, layout) };
                memory.map_or(ptr::null_mut(), NonNull::as_ptr)
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some((zones, object)) = map_of(memory).zip(NonNull::new(memory)) else {
            // SAFETY: it is the host's.
            return unsafe { System.dealloc(memory, layout) };
        };
        match executor::try_current() {
            // SAFETY: it came from a heap over these zones, of this CPU's node: nothing here goes from node to node.
            Some(cpu) => unsafe { cpu.free(zones, object, layout) },
            // SAFETY: as above.
            None => unsafe { Heap::free_from_outside(zones, object, layout) },
        }
    }
}

/// A node with so many zones of its own.
fn start(cpus: usize, count: usize) -> (Hosted, &'static ZoneMap) {
    let layout = Layout::from_size_align(count * ZONE_SIZE, ZONE_SIZE).unwrap();
    let bitmap = (0..ZoneMap::words(count)).map(|_| AtomicU64::new(0));
    let bitmap: Vec<_> = bitmap.collect();
    // SAFETY: memory for the map alone, never given back.
    let zones = unsafe { ZoneMap::new(System.alloc(layout), count, bitmap.leak()) };
    zones.add(0, count);
    let zones = Box::leak(Box::new(zones));
    let free = MAPS.iter().find(|map| {
        map.compare_exchange(ptr::null_mut(), zones, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    assert!(free.is_some(), "more nodes than expected");
    let hosted = Hosted::start(Options {
        cpus,
        ..Options::default()
    });
    assert!(hosted.node().set_zones(zones));
    (hosted, zones)
}

/// Waits until `condition` holds, at most ten seconds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "not in time: {what}"
        );
        std::thread::yield_now();
    }
}

/// As [`eventually`], on a CPU.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "not in time: {what}"
        );
        sleep(Duration::from_micros(100)).await;
    }
}

/// Waits until a CPU sleeps, with nothing that would wake it.
async fn asleep(cpu: CpuId) {
    until("the CPU sleeps", || current().node().cpu(cpu).may_sleep()).await;
}

/// Everything that there is for objects of 4 KiB.
fn use_up() -> Vec<Box<[u8; 4096]>> {
    // Room in advance: the list must not need memory when there is none.
    let mut all = Vec::with_capacity(2048);
    while let Ok(one) = try_box([0; 4096]) {
        all.push(one);
    }
    all
}

#[test]
fn trap_49_the_last_object_of_a_zone_is_freed_from_a_hard_section() {
    let (hosted, zones) = start(2, 64);
    hosted.block_on(move || async move {
        let before = zones.free_zones();
        let large = vec![1_u8; 5 * ZONE_SIZE];
        let objects: Vec<_> = (0..500).map(|_| Box::new([2_u8; 4096])).collect();
        assert!(zones.free_zones() < before - 30);
        run_on(CpuId(1), move |_: &Cpu| {
            assert!(critical::is_hard());
            drop((large, objects));
        })
        .await;
        until("their zones are free", || {
            // The next requests find them; nothing but the owner gives them back.
            drop(Box::new([0_u8; 4096]));
            current().heap().stats().zones < 20
        })
        .await;
    });
}

/// CPU 1 takes all memory, which CPU 0 frees and then wants. CPU 1 sleeps meanwhile, or is busy with something that needs
/// no memory.
fn frees_for_another(busy: bool) {
    let (hosted, zones) = start(2, 64);
    hosted.block_on(move || async move {
        let stop = Arc::new(AtomicBool::new(!busy));
        let end = stop.clone();
        let eater = move || async move {
            let run = async move {
                while !end.load(Ordering::Relaxed) {
                    yield_now().await;
                }
            };
            spawn("busy", run).detach();
            use_up()
        };
        let all = spawn_on(CpuId(1), "eater", eater).await;
        assert!(all.len() > 400, "{}", all.len());
        if !busy {
            asleep(CpuId(1)).await;
        }
        // All of it is CPU 1's own. It is freed here...
        drop(all);
        assert!(zones.free_zones() < 10, "CPU 1 has not noticed");
        // ...and wanted here: the first request fails, and asks.
        let mut large = Vec::<u8>::new();
        until("the memory that CPU 1 had", || {
            may_fail(|| large.try_reserve_exact(1 << 20)).is_ok()
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn trap_51_what_is_freed_for_a_cpu_that_sleeps_is_found_when_memory_is_short() {
    frees_for_another(false);
}

#[test]
fn trap_51_what_is_freed_for_a_busy_cpu_is_found_when_memory_is_short() {
    frees_for_another(true);
}

#[test]
fn a_cpu_that_sleeps_has_sent_home_what_it_gathered() {
    let (hosted, _) = start(2, 64);
    hosted.block_on(|| async {
        // Too few to fill a batch.
        let objects: Vec<_> = (0..10).map(|_| Box::new([0_u8; 400])).collect();
        let class = |size: usize| {
            let mut classes = current().heap().class_stats();
            classes.find(|class| class.size >= size).unwrap()
        };
        let before = class(400).remote_frees;
        let end = || async move { drop(objects) };
        spawn_on(CpuId(1), "end", end).await;
        asleep(CpuId(1)).await;
        // They are here, and this CPU takes them before it sleeps itself.
        until("they are back", || class(400).remote_frees >= before + 10).await;
    });
}

#[test]
fn trap_51_allocating_here_and_freeing_there_rings_nobody_and_needs_little() {
    let (hosted, _) = start(2, 256);
    let rung = hosted.block_on(|| async {
        const ROUNDS: u64 = 200;
        let rung = || {
            let cpus = current().node().cpus();
            cpus.map(|cpu| cpu.stats().doorbells_rung.get())
                .sum::<u64>()
        };
        let before = rung();
        for _ in 0..ROUNDS {
            let objects: Vec<_> = (0..1000).map(|_| Box::new([0_u8; 64])).collect();
            run_on(CpuId(1), move |_: &Cpu| drop(objects)).await;
            assert!(current().heap().stats().zones < 30);
        }
        assert!(current().heap().stats().remote_frees > 150_000);
        rung() - before
    });
    // Two for each round, for `run_on` and its reply; none for a thousand objects.
    assert!(rung <= 2 * 200 + 20, "{rung}");
}

#[test]
fn trap_53_a_thread_that_ends_elsewhere_is_freed_to_its_maker() {
    let (hosted, _) = start(2, 64);
    hosted.block_on(|| async {
        let ended = Arc::new(AtomicUsize::new(0));
        for number in 1..=2_000 {
            let count = ended.clone();
            let body = |mobile: Mobile| async move {
                let kept = [7_u8; 3_000];
                mobile.migrate_to(CpuId(1)).await;
                assert_eq!(current().id(), CpuId(1));
                assert_eq!(kept[2_999], 7);
                count.fetch_add(1, Ordering::Relaxed);
            };
            spawn_movable("mover", body).detach();
            until("it has ended", || ended.load(Ordering::Relaxed) == number).await;
        }
        // CPU 0 made 6 MB of threads, and CPU 1 freed them: they have come back, and CPU 1 has kept none.
        let (mine, others) = (
            current().heap().stats(),
            run_on(CpuId(1), |cpu: &Cpu| cpu.heap().stats()).await,
        );
        assert!(mine.remote_frees > 1_000, "{mine:?}");
        assert!(mine.zones < 20 && others.zones < 20, "{mine:?} {others:?}");
        assert!(others.objects < -1_000, "trap 52: {others:?}");
        assert!(mine.objects + others.objects < 500, "{mine:?} {others:?}");
    });
}

/// Counts itself.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn trap_54_a_cache_that_goes_right_after_remote_frees_leaves_nothing() {
    let count = Arc::new(AtomicUsize::new(0));
    let (hosted, zones) = start(2, 64);
    let alive = count.clone();
    let left = hosted.block_on(move || async move {
        let counted = alive.clone();
        let make = move || Some((Counted::new(&counted), [0_u8; 500]));
        let cache = Arc::new(ObjectCache::new(current().node(), 100, make).unwrap());
        let objects: Vec<_> = (0..300).map(|_| cache.get().unwrap()).collect();
        assert_eq!(alive.load(Ordering::Relaxed), 300);
        let there = cache.clone();
        run_on(CpuId(1), move |_: &Cpu| {
            objects.into_iter().for_each(|object| there.put(object));
            assert_eq!((there.stats().held, there.stats().overflowed), (100, 200));
        })
        .await;
        assert_eq!(alive.load(Ordering::Relaxed), 100);
        drop(cache);
        alive.load(Ordering::Relaxed)
    });
    assert_eq!(left, 0);
    assert_eq!(
        Arc::strong_count(&count),
        1,
        "nor anything of the constructor"
    );
    drop(hosted);
    assert!(zones.free_zones() <= 64);
}

#[test]
fn a_cached_object_is_constructed_when_it_enters_and_found_as_it_was_put_back() {
    let (hosted, _) = start(2, 64);
    hosted.block_on(|| async {
        let make = || Some(Vec::<u32>::with_capacity(100));
        let cache = ObjectCache::new(current().node(), 2, make).unwrap();
        for round in 0..10 {
            let mut object = cache.get().unwrap();
            assert_eq!(
                object.len(),
                round,
                "the magazine gives what was put back last"
            );
            object.push(7);
            cache.put(object);
        }
        let stats = cache.stats();
        assert_eq!((stats.gets, stats.constructed, stats.held), (10, 1, 1));
        // One CPU's objects are not another's, until they are put there.
        let cache = Arc::new(cache);
        let (there, object) = (cache.clone(), cache.get().unwrap());
        run_on(CpuId(1), move |_: &Cpu| {
            assert_eq!(there.get().unwrap().len(), 0);
            there.put(object);
            assert_eq!(there.get().unwrap().len(), 10);
        })
        .await;
        assert_eq!(cache.stats().held, 0);
    });
}

#[test]
fn a_cache_without_memory_says_none_and_goes_on_later() {
    let (hosted, _) = start(1, 32);
    hosted.block_on(|| async {
        let make = || {
            let mut buffer = Vec::<u8>::new();
            may_fail(|| buffer.try_reserve_exact(20_000)).ok()?;
            Some(buffer)
        };
        let cache = ObjectCache::new(current().node(), 4, make).unwrap();
        let kept = cache.get().unwrap();
        let all = use_up();
        assert!(cache.get().is_none());
        assert_eq!(cache.stats().failures, 1);
        cache.put(kept);
        assert!(cache.get().is_some(), "what it holds it can give");
        drop(all);
        assert!(cache.get().is_some());
    });
}

#[cfg(debug_assertions)]
#[test]
fn a_box_is_refused_where_there_is_no_memory_and_the_value_comes_back() {
    let (hosted, _) = start(1, 32);
    hosted.block_on(|| async {
        current().heap().fail_after(1);
        assert_eq!(try_box([5_u64; 9]), Err([5; 9]));
        assert_eq!(try_box([5_u64; 9]).as_deref(), Ok(&[5; 9]));
        assert_eq!(try_box(()).as_deref(), Ok(&()), "which needs none");
        assert_eq!(current().heap().stats().failures, 1);
    });
}

#[test]
fn what_is_freed_outside_of_every_cpu_comes_home() {
    let (hosted, _) = start(1, 64);
    let rounds = 100;
    for _ in 0..rounds {
        let objects = hosted.block_on(|| async {
            let objects: Vec<_> = (0..300).map(|_| Box::new([0_u8; 1500])).collect();
            yield_now().await;
            objects
        });
        drop(objects);
    }
    let cpu = hosted.node().cpu(CpuId(0));
    eventually("30 000 objects are back", || {
        hosted.block_on(|| async { drop(use_up()) });
        cpu.heap().stats().remote_frees >= 300 * rounds
    });
    assert!(cpu.heap().stats().failures > 0);
}

struct Question(u64);

impl Message for Question {
    type Reply = u64;
}

#[test]
fn a_call_is_refused_where_memory_is_short_and_its_message_comes_back() {
    let (hosted, _) = start(2, 64);
    hosted.block_on(|| async {
        let open = || async {
            let port = Port::new(Later::<Question>::default());
            let handle = port.handle();
            let serve = async move {
                loop {
                    let pending = port.receive().await;
                    let answer = pending.message().0;
                    pending.reply(answer);
                }
            };
            spawn("server", serve).detach();
            handle
        };
        for cpu in [CpuId(0), CpuId(1)] {
            let port = spawn_on(cpu, "open", open).await;
            #[cfg(debug_assertions)]
            {
                current().heap().fail_after(1);
                let refused = port.try_call(Question(5)).map(drop);
                assert_eq!(
                    refused.map_err(|executor::Full(Question(number))| number),
                    Err(5)
                );
            }
            assert_eq!(port.try_call(Question(6)).ok().unwrap().await, 6);
            // And while packets, say, have taken what there is of every size: the executor itself goes on.
            let mut all = Vec::<Vec<u8>>::with_capacity(64 * 1024);
            let sizes: Vec<_> = current()
                .heap()
                .class_stats()
                .map(|class| class.size)
                .collect();
            for size in sizes.into_iter().rev().filter(|size| *size != 0) {
                let mut one = Vec::new();
                while may_fail(|| one.try_reserve_exact(size)).is_ok() {
                    all.push(core::mem::take(&mut one));
                }
            }
            assert!(port.try_call(Question(7)).is_err());
            assert_eq!(port.call(Question(8)).await, 8);
            drop(all);
            assert_eq!(port.try_call(Question(9)).ok().unwrap().await, 9);
        }
    });
}
