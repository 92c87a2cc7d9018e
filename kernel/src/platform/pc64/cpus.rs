//! Bringing up all CPUs, and what each does until there is a node to run.
//!
//! The boot processor prepares a slot (stacks, segments) for every processor of the MADT, copies the
//! trampoline to a page below 1 MiB, and wakes all of them with one broadcast. Each finds its slot
//! ([`application_processor`]), sets itself up, signs the roster, and sleeps until [`release`] hands out the
//! node. Slots are the firmware's order with the boot processor first; CPU numbers are the slots of those
//! who came, without gaps, so that a dead CPU does not leave a hole in every table of the kernel.
//!
//! Invariants of `unsafe` here: 1. [`AP_START`] and the trampoline page are written before the broadcast and
//! not changed after. 2. A slot's stack and segments are used by the one CPU whose APIC id the slot has
//! (the roster turns a second one away, and `trampoline.s` parks strangers).

use super::clock::{self, Measurement};
use super::features::Features;
use super::machine::{Apic, Pc64, Processor, VECTORS};
use super::segments::Segments;
use super::stacks::{self, Stacks};
use super::vectors::DOORBELL;
use super::{image, paging, physical, power, traps};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use apic::boot_info::{BootInfo, LOW_PAGE_BYTES};
use apic::clock::Clock;
use apic::start::{Delays, Roster, broadcast};
use apic::tables::Firmware;
use apic::vector_map::VectorMap;
use conquer_once::spin::OnceCell;
use core::sync::atomic::{AtomicU64, Ordering};
use executor::{Cpu, CpuId, Node};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::model_specific::GsBase;

/// Who has not signed the roster by then is left out.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Polls of the roster before the boot processor sleeps for it, where there may be fewer cores than CPUs and
/// the one that spins keeps others from coming. A fraction of a millisecond.
const POLLS_BEFORE_SLEEP: u32 = 10_000;
/// Polls of the roster between two looks at the clock, which may cost a trip to the emulator.
const POLLS_PER_LOOK: u32 = 4096;

/// What `trampoline.s` reads, in this order.
#[repr(C)]
struct ApStart {
    count: AtomicU64,
    ids: AtomicU64,
    stacks: AtomicU64,
    page_table: AtomicU64,
}

#[unsafe(export_name = "ap_start")]
static AP_START: ApStart = ApStart {
    count: AtomicU64::new(0),
    ids: AtomicU64::new(0),
    stacks: AtomicU64::new(0),
    page_table: AtomicU64::new(0),
};

unsafe extern "C" {
    safe static trampoline_begin: u8;
    safe static trampoline_end: u8;
}

/// What a CPU's GS base points to. On a cache line of its own: it is read all the time.
#[repr(C, align(64))]
#[derive(Default)]
struct CpuBlock {
    /// The executor's: null until the CPU has entered. Reached through GS alone.
    current: AtomicU64,
}

static BRING_UP: OnceCell<BringUp> = OnceCell::uninit();

/// What the CPUs share on their way up.
struct BringUp {
    features: &'static Features,
    apic: &'static Apic,
    boot_apic_id: u32,
    segments: Vec<&'static Segments>,
    blocks: Vec<CpuBlock>,
    roster: Roster,
    /// The boot processor's TSC, again and again while it waits.
    boot_tsc: AtomicU64,
    /// Each slot's TSC when it arrived.
    arrival_tsc: Vec<AtomicU64>,
    /// The largest disagreement that any CPU has seen.
    disagreement: AtomicU64,
    node: OnceCell<Arc<Node>>,
}

/// What became of it.
pub struct Outcome {
    /// The CPUs that came, the boot processor first.
    pub processors: Vec<Processor>,
    /// APIC ids of those who did not.
    pub absent: Vec<u32>,
    /// See [`Pc64::tsc_disagreement`].
    pub tsc_disagreement: u64,
    /// The clock, calibrated over the time this took.
    pub clock: Clock,
}

/// Why not even one CPU can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Starts up to `limit` CPUs. On the boot processor, interrupts off, under the kernel's page tables.
pub fn start(
    boot: &BootInfo,
    features: &'static Features,
    firmware: &Firmware,
    apic: &'static Apic,
    tables: &mut paging::Tables,
    entered_tsc: u64,
    limit: usize,
) -> Result<Outcome, OutOfMemory> {
    power::mask_legacy_interrupts();
    apic_of_this_cpu(apic);
    let measurement = clock::measure(entered_tsc, apic, features, firmware);
    let ids = order(&firmware.processors, apic.id(), limit);
    let stacks: Option<Vec<Stacks>> = ids
        .iter()
        .enumerate()
        .map(|(slot, _)| {
            let boot_stack = (slot == 0).then(|| VirtAddr::new(image::boot_stack().end));
            stacks::make(tables, slot, boot_stack)
        })
        .collect();
    let stacks = stacks.ok_or(OutOfMemory)?;
    let bring_up = BRING_UP.get_or_init(|| BringUp {
        features,
        apic,
        boot_apic_id: ids[0],
        segments: stacks.iter().map(Segments::new).collect(),
        blocks: ids.iter().map(|_| CpuBlock::default()).collect(),
        roster: Roster::new(ids.len()),
        boot_tsc: AtomicU64::new(clock::tsc()),
        arrival_tsc: ids.iter().map(|_| AtomicU64::new(0)).collect(),
        disagreement: AtomicU64::new(0),
        node: OnceCell::uninit(),
    });
    set_up_this_cpu(bring_up, 0);
    // Nobody else is awake, so the boot processor cannot be too late.
    let _ = bring_up.roster.arrive(0);

    if ids.len() > 1
        && let Some(page) = boot.low_page()
    {
        let tops: Vec<u64> = stacks.iter().map(|stacks| stacks.main.as_u64()).collect();
        prepare_trampoline(page, tables.root(), ids.clone().leak(), tops.leak());
        let delays = if features.emulated_apic() {
            Delays::EMULATED
        } else {
            Delays::HARDWARE
        };
        broadcast(apic, (page >> 12) as u8, delays, |us| {
            measurement.wait_ns(u64::from(us) * 1000)
        });
        wait_for_all(bring_up, &measurement);
    }
    let missing = bring_up.roster.close();
    let clock = measurement.end();
    apic_of_this_cpu(apic); // its timer was the measurement's

    let (absent, present): (Vec<_>, Vec<_>) = ids
        .iter()
        .enumerate()
        .partition(|(slot, _)| missing.contains(slot));
    Ok(Outcome {
        processors: present
            .into_iter()
            .map(|(slot, &apic_id)| Processor {
                apic_id,
                slot,
                vectors: VectorMap::new(),
                note: OnceCell::uninit(),
            })
            .collect(),
        absent: absent.into_iter().map(|(_, &apic_id)| apic_id).collect(),
        tsc_disagreement: bring_up.disagreement.load(Ordering::Relaxed),
        clock,
    })
}

/// The processors to start, the boot processor first.
fn order(listed: &[u32], boot_processor: u32, limit: usize) -> Vec<u32> {
    let others = listed.iter().copied().filter(|id| *id != boot_processor);
    core::iter::once(boot_processor)
        .chain(others)
        .take(limit.max(1))
        .collect()
}

/// Gives the waiting CPUs their node: each enters its CPU there and runs it.
pub fn release(machine: &'static Pc64, node: &Arc<Node>) {
    if let Ok(bring_up) = BRING_UP.try_get() {
        bring_up.node.try_init_once(|| node.clone()).ok();
        machine.apic.send_to_others(DOORBELL);
    }
}

/// Ends the interrupt in service on a CPU, before there is a machine.
pub fn acknowledge() {
    if let Ok(bring_up) = BRING_UP.try_get() {
        bring_up.apic.end_of_interrupt();
    }
}

/// Stops every other CPU at once, wherever it is. For panics.
pub fn stop_others() {
    if let Ok(bring_up) = BRING_UP.try_get() {
        interrupts::disable();
        bring_up.apic.send_nmi_to_others();
    }
}

fn apic_of_this_cpu(apic: &Apic) {
    apic.enable(VECTORS);
}

fn set_up_this_cpu(bring_up: &'static BringUp, slot: usize) {
    bring_up.features.enable();
    if let (Some(segments), Some(block)) = (bring_up.segments.get(slot), bring_up.blocks.get(slot))
    {
        segments.load();
        GsBase::write(VirtAddr::from_ptr(&block.current));
    }
    traps::load();
}

/// The first Rust of every other CPU, on its slot's stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn application_processor(slot: usize) -> ! {
    let Ok(bring_up) = BRING_UP.try_get() else {
        power::halt()
    };
    set_up_this_cpu(bring_up, slot);
    apic_of_this_cpu(bring_up.apic);
    compare_tsc(bring_up, slot);
    if !bring_up.roster.arrive(slot) {
        power::halt();
    }
    if bring_up.roster.complete() {
        // The last one wakes the boot processor, which may sleep for us.
        bring_up.apic.send(bring_up.boot_apic_id, DOORBELL);
    }
    loop {
        interrupts::disable();
        if let (Ok(node), Some(machine)) = (bring_up.node.try_get(), Pc64::get()) {
            let at = machine
                .processors
                .iter()
                .position(|processor| processor.slot == slot);
            let Some(cpu) = at.and_then(|at| u16::try_from(at).ok()) else {
                power::halt()
            };
            let cpu = node.cpu(CpuId(cpu));
            enter(cpu);
            run(cpu);
        }
        // The doorbell of `release` ends this; it may not slip in between the two instructions.
        interrupts::enable_and_hlt();
    }
}

/// Makes `cpu` the current hardware CPU's.
pub fn enter(cpu: &Cpu) {
    // SAFETY: a hardware CPU enters the number that its slot has got, once, and no other has that slot.
    unsafe { cpu.enter() };
}

/// Runs an entered CPU until its node stops.
pub fn run(cpu: &Cpu) -> ! {
    interrupts::enable();
    cpu.run();
    power::halt()
}

/// Checks the arriving CPU's TSC against what the boot processor published last: it must not be behind.
fn compare_tsc(bring_up: &BringUp, slot: usize) {
    let published = bring_up.boot_tsc.load(Ordering::Acquire);
    let mine = clock::tsc();
    bring_up
        .disagreement
        .fetch_max(published.saturating_sub(mine), Ordering::Relaxed);
    if let Some(arrival) = bring_up.arrival_tsc.get(slot) {
        arrival.store(mine, Ordering::Release);
    }
}

fn wait_for_all(bring_up: &BringUp, measurement: &Measurement) {
    let began_ns = measurement.elapsed_ns();
    let patient = || measurement.elapsed_ns() - began_ns < PATIENCE_NS;
    let mut polls = 0;
    while !bring_up.roster.complete() {
        bring_up.boot_tsc.store(clock::tsc(), Ordering::Release);
        polls += 1;
        if polls >= POLLS_BEFORE_SLEEP && bring_up.features.emulated_apic() {
            sleep_for_all(bring_up, patient);
            break;
        }
        if polls.is_multiple_of(POLLS_PER_LOOK) && !patient() {
            break;
        }
    }
    // Whoever arrived must not be ahead of us now.
    for arrival in &bring_up.arrival_tsc {
        let ahead = arrival.load(Ordering::Acquire).saturating_sub(clock::tsc());
        bring_up.disagreement.fetch_max(ahead, Ordering::Relaxed);
    }
}

/// Sleeps until the last CPU rings, or the APIC timer that the measurement counts with runs out, at 4.3 s.
fn sleep_for_all(bring_up: &BringUp, patient: impl Fn() -> bool) {
    bring_up.apic.unmask_timer();
    loop {
        interrupts::disable();
        if bring_up.roster.complete() || !patient() {
            break;
        }
        interrupts::enable_and_hlt();
    }
}

fn prepare_trampoline(page: u64, page_table: u64, ids: &'static [u32], tops: &'static [u64]) {
    AP_START.count.store(ids.len() as u64, Ordering::Relaxed);
    AP_START
        .ids
        .store(ids.as_ptr().expose_provenance() as u64, Ordering::Relaxed);
    AP_START
        .stacks
        .store(tops.as_ptr().expose_provenance() as u64, Ordering::Relaxed);
    AP_START.page_table.store(page_table, Ordering::Release);
    let begin = core::ptr::from_ref(&trampoline_begin);
    let len = core::ptr::from_ref(&trampoline_end).addr() - begin.addr();
    // SAFETY: the page is free memory (`BootInfo::low_page`), shown in the window; the code is shorter.
    unsafe {
        physical::window(page).copy_from_nonoverlapping(begin, len.min(LOW_PAGE_BYTES as usize))
    }
}

/// Makes a value live for ever: the machine's parts do.
pub fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
