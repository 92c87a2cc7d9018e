//! Memory that is allocated here and freed there, for as long as one likes.
//!
//! The cast: one bare executor, and on each CPU a worker. The plot: a worker allocates a handful of objects, of one size or
//! of many, keeps some of them for a while, frees some, and hands some to another CPU to free. A few CPUs may do all the
//! allocating and others all the freeing; now and then everybody rests and all is freed. The end: every object is back.
//!
//! What must hold in the middle: the zones that the heaps hold are bounded by what was ever alive at once, however many
//! objects went through them. `--length SECONDS` makes it a long story: 2 virtual seconds are some 1e9 operations.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use executor::slab::ZONE_SIZE;
use executor::{Cpu, CpuId, Node, now_ns, run_on, sleep, spawn_on, yield_now};

use super::{Options, Plan, Scenario};
use crate::act::{Act, Timed};
use crate::node::Settings;
use crate::promise::{Observer, Violation};
use crate::random::Random;
use crate::world::World;

/// The story.
pub const SCENARIO: Scenario = Scenario {
    name: "memory",
    summary: "objects that are allocated on one CPU and freed on another, of all sizes",
    plan,
};

const MS: u64 = 1_000_000;
/// How often the observer looks at the zones.
const PULSE_NS: u64 = MS / 10;
/// Workers are through this long before the end.
const REST_NS: u64 = MS / 2;
/// The most that a worker has alive.
const ALIVE_BYTES: u64 = 1 << 20;
/// Zones of a CPU beside those that the bytes alive would fill: one for each class, the empty ones that it keeps, and what
/// is on its way home.
const SPARE_ZONES: u64 = 36 + 8 + 8;

/// What a worker does.
#[derive(Clone, Debug)]
struct Habits {
    /// The sizes that it uses.
    sizes: Vec<usize>,
    /// Objects of a handful, at most.
    handful: u64,
    /// Of a hundred objects, how many stay for a while, and how many others are freed elsewhere.
    kept: u64,
    passed: u64,
    /// Where they are freed; anywhere if None.
    to: Option<u16>,
}

/// What the workers note.
#[derive(Default)]
struct Notes {
    /// Objects allocated and objects freed.
    operations: AtomicU64,
    /// Bytes alive, and the most there were.
    alive: AtomicI64,
    peak: AtomicI64,
    /// Workers that are through.
    through: AtomicU64,
}

impl Notes {
    fn count(&self, objects: usize, bytes: i64) {
        self.operations.fetch_add(objects as u64, Ordering::Relaxed);
        let alive = self.alive.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(alive, Ordering::Relaxed);
    }
}

fn plan(random: &mut Random, options: &Options) -> Plan {
    let cpus = options
        .cpus
        .unwrap_or_else(|| random.within(2..=5) as usize);
    let length_ns = options.length_ns.unwrap_or(MS);
    let habits: Vec<Habits> = (0..cpus).map(|_| invent(random, cpus)).collect();
    let seeds: Vec<u64> = (0..cpus).map(|_| random.number()).collect();
    // Each worker is an act, so that a failing story can lose some.
    let acts = (0..cpus).map(|cpu| (0, Act::Type(0, format!("worker {cpu}"))));
    let acts: Vec<Timed> = acts.collect();
    let set_up = move |world: &mut World, acts: &[Timed]| {
        let notes = Arc::new(Notes::default());
        let works = |cpu: usize| {
            let text = format!("worker {cpu}");
            let mut acts = acts.iter();
            acts.any(|(_, act)| matches!(act, Act::Type(_, line) if *line == text))
        };
        let workers: Vec<_> = habits
            .into_iter()
            .zip(seeds)
            .enumerate()
            .filter(|(cpu, _)| works(*cpu))
            .collect();
        let (workers, count) = (Arc::new(workers), notes.clone());
        let expected = workers.len() as u64;
        let until_ns = length_ns.saturating_sub(REST_NS);
        let begin = move |node: &Arc<Node>| {
            for number in 0..workers.len() {
                let (workers, notes) = (workers.clone(), count.clone());
                let cpu = CpuId(workers[number].0 as u16);
                let start = move || async move {
                    let (_, (habits, seed)) = &workers[number];
                    work(habits, Random::new(*seed, "worker"), &notes, until_ns).await;
                    notes.through.fetch_add(1, Ordering::Relaxed);
                };
                node.spawn_on(cpu, "worker", start).detach();
            }
        };
        world.add_node(Settings {
            program: Some(Arc::new(begin)),
            ..Settings::kernel(0, cpus, String::new())
        });
        let promises = Promises {
            notes,
            workers: expected,
            most_zones: 0,
        };
        world.observe(Box::new(promises), PULSE_NS);
        world.begin(&[])
    };
    Plan {
        nodes: 1,
        cpus,
        acts,
        length_ns,
        set_up: Box::new(set_up),
    }
}

fn invent(random: &mut Random, cpus: usize) -> Habits {
    let one = [16, 64, 100, 256, 700, 1_500, 2_048, 4_096, 9_000, 16_384];
    let sizes = match random.below(3) {
        0 => vec![*random.pick(&one)],
        1 => (0..4).map(|_| *random.pick(&one)).collect(),
        _ => (0..40)
            .map(|_| random.within(1..=40_000) as usize)
            .collect(),
    };
    let kept = *random.pick(&[0, 10, 50]);
    Habits {
        sizes,
        handful: *random.pick(&[10, 200, 1_000]),
        kept,
        passed: *random.pick(&[0, 50, 100, 100]),
        to: (random.below(2) == 0).then(|| random.below(cpus as u64) as u16),
    }
}

type Objects = Vec<Vec<u8>>;

fn bytes(objects: &Objects) -> i64 {
    objects.iter().map(Vec::capacity).sum::<usize>() as i64
}

async fn work(habits: &Habits, mut random: Random, notes: &Arc<Notes>, until_ns: u64) {
    let cpus = executor::current().node().cpu_count() as u64;
    let mut kept = Objects::new();
    let mut kept_bytes = 0;
    while now_ns() < until_ns {
        let (mut here, mut there) = (Objects::new(), Objects::new());
        let (mut count, mut sum) = (0, 0);
        for _ in 0..random.within(1..=habits.handful) {
            let object = Vec::with_capacity(*random.pick(&habits.sizes));
            (count, sum) = (count + 1, sum + object.capacity() as u64);
            if random.below(100) < habits.kept {
                kept_bytes += object.capacity() as u64;
                kept.push(object);
            } else if random.below(100) < habits.passed {
                there.push(object);
            } else {
                here.push(object);
            }
            if sum + kept_bytes > ALIVE_BYTES {
                break;
            }
        }
        notes.count(count, sum as i64);
        // Some of the kept ones go: the newest and the oldest live equally long.
        while kept_bytes > ALIVE_BYTES / 2 {
            let old = kept.swap_remove(random.below(kept.len() as u64) as usize);
            kept_bytes -= old.capacity() as u64;
            if random.below(2) == 0 {
                &mut here
            } else {
                &mut there
            }
            .push(old);
        }
        notes.count(here.len(), -bytes(&here));
        drop(here);
        if !there.is_empty() {
            let to = habits.to.map_or_else(|| random.below(cpus), u64::from);
            let counts = notes.clone();
            let free = move |_: &Cpu| {
                counts.count(there.len(), -bytes(&there));
                drop(there);
            };
            run_on(CpuId(to as u16), free).await;
        }
        match random.below(200) {
            0 => {
                // Home, all of it, from wherever that is said.
                let all = std::mem::take(&mut kept);
                kept_bytes = 0;
                let counts = notes.clone();
                let free = move || async move {
                    counts.count(all.len(), -bytes(&all));
                };
                spawn_on(CpuId(random.below(cpus) as u16), "free", free).await;
                sleep(Duration::from_nanos(random.below(20_000))).await;
            }
            _ => yield_now().await,
        }
    }
    notes.count(kept.len(), -bytes(&kept));
}

struct Promises {
    notes: Arc<Notes>,
    workers: u64,
    most_zones: u64,
}

impl Promises {
    fn check(&mut self, world: &World) -> Result<(), Violation> {
        let Some(running) = &world.host(0).running else {
            return Ok(());
        };
        let cpus = running.node().cpu_count() as u64;
        let zones = running
            .node()
            .cpus()
            .map(|cpu| cpu.heap().stats().zones as u64);
        let zones = zones.sum::<u64>();
        self.most_zones = self.most_zones.max(zones);
        let peak = self.notes.peak.load(Ordering::Relaxed).cast_unsigned();
        // A fifth of an object may be wasted, and each CPU's classes may have had their peaks at different times.
        let bound = cpus * (SPARE_ZONES + 2 * ALIVE_BYTES.min(peak) / ZONE_SIZE as u64);
        if zones > bound {
            return Err(Violation::new(
                "the zones in use are bounded by what was alive at once",
                format!("{zones} zones, and {peak} bytes at most; the bound is {bound}"),
            ));
        }
        Ok(())
    }
}

impl Observer for Promises {
    fn look(&mut self, world: &World) -> Result<u64, Violation> {
        self.check(world)?;
        Ok(world.now_ns() + PULSE_NS)
    }

    fn ended(&mut self, world: &World) -> Result<(), Violation> {
        self.check(world)?;
        let (through, alive) = (
            self.notes.through.load(Ordering::Relaxed),
            self.notes.alive.load(Ordering::Relaxed),
        );
        if (through, alive) != (self.workers, 0) {
            return Err(Violation::new(
                "every worker comes to its end",
                format!("{through} of {}; {alive} bytes alive", self.workers),
            ));
        }
        let Some(running) = &world.host(0).running else {
            return Ok(());
        };
        let cpus = running.node().cpu_count();
        // Counted by the heaps, whoever allocated and whoever freed; what is left is the executor's own.
        let (objects, bytes) = running.node().cpus().fold((0, 0), |sum, cpu| {
            let heap = cpu.heap().stats();
            (sum.0 + heap.objects, sum.1 + heap.bytes)
        });
        if objects < 0 || objects > 100 * cpus as isize || bytes < 0 {
            return Err(Violation::new(
                "the heaps are balanced when everything is freed",
                format!("{objects} objects, {bytes} bytes"),
            ));
        }
        Ok(())
    }

    fn summary(&self) -> Option<String> {
        Some(format!(
            "{} objects allocated and freed; at most {} bytes alive, {} zones held",
            self.notes.operations.load(Ordering::Relaxed),
            self.notes.peak.load(Ordering::Relaxed),
            self.most_zones
        ))
    }
}
