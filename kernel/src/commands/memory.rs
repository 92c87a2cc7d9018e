//! `vmstat`: the heaps of all CPUs, and with `-m` what each size of object costs.
//!
//! Decision: the figures of one CPU's heap mean little by themselves (what one allocates another frees), so `-m` shows sums;
//! and no type is told from another, as DragonFly's kmalloc does by `malloc_type`: a size is all that an allocation says.

use alloc::vec::Vec;

use executor::run_on;
use executor::slab::{ClassStats, Heap, ZONE_SIZE};

use super::syntax::system::{Vmstat, parse_vmstat};
use super::threads::all_cpus;
use super::{Command, CommandError, Context, owned, run};
use crate::commands::arguments::Arguments;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "vmstat",
    summary: "memory: the heap of every CPU, and what each size of object takes",
    usage: "vmstat                  (the heap of every CPU)\n\
            vmstat -m               (objects by size, the sums over all CPUs)\n\
            In use: allocated and not freed. Zones: pieces of 64 KiB that hold the objects.\n\
            Remote frees: freed by another CPU, and come home. Failures: requests that found no memory.\n\
            A single CPU's objects may be negative: it frees what others have allocated.",
    complete: |_, _| owned(&["-m"]),
    run: run!(vmstat),
}];

async fn vmstat(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    match parse_vmstat(words)? {
        Vmstat::Heaps => show_heaps(context).await,
        Vmstat::Sizes => show_sizes(context).await,
    }
    if let Some(zones) = context.node.zones() {
        let free_kib = zones.free_zones() * ZONE_SIZE / 1024;
        let text = format_args!("{free_kib} KiB are free");
        context.output.line(text).await;
    }
    Ok(())
}

async fn show_heaps(context: &Context) {
    let output = &context.output;
    output
        .line(format_args!(
            "{:>3} {:>10} {:>12} {:>13} {:>9}",
            "cpu", "slab KiB", "objects", "remote frees", "failures"
        ))
        .await;
    let (mut slab_bytes, mut objects, mut bytes) = (0, 0, 0);
    for cpu in all_cpus(context) {
        let heap = run_on(cpu, |cpu| cpu.heap().stats()).await;
        output
            .line(format_args!(
                "{:>3} {:>10} {:>12} {:>13} {:>9}",
                cpu.0,
                heap.zones * ZONE_SIZE / 1024,
                heap.objects,
                heap.remote_frees,
                heap.failures
            ))
            .await;
        slab_bytes += heap.zones * ZONE_SIZE;
        objects += heap.objects;
        bytes += heap.bytes;
    }
    let (slab_kib, kib) = (slab_bytes / 1024, bytes / 1024);
    output
        .line(format_args!(
            "all {slab_kib} KiB of slabs, {objects} objects, {kib} KiB"
        ))
        .await;
}

async fn show_sizes(context: &Context) {
    let output = &context.output;
    output
        .line(format_args!(
            "{:>7} {:>9} {:>9} {:>7} {:>12} {:>13} {:>9}",
            "size", "in use", "KiB", "zones", "requests", "remote frees", "failures"
        ))
        .await;
    for sum in sum_of_sizes(context).await {
        if sum.requests == 0 && sum.failures == 0 {
            continue;
        }
        let size = sum.size;
        let (in_use, kib) = (sum.objects(), sum.bytes() / 1024);
        let zones = sum.zones.cast_signed();
        // What gets whole zones has no one size.
        let name: &dyn core::fmt::Display = if size == 0 { &"larger" } else { &size };
        output
            .line(format_args!(
                "{name:>7} {in_use:>9} {kib:>9} {zones:>7} {:>12} {:>13} {:>9}",
                sum.requests, sum.remote_frees, sum.failures
            ))
            .await;
    }
}

/// The classes of all heaps, each CPU's read over there.
async fn sum_of_sizes(context: &Context) -> Vec<ClassStats> {
    let mut sums = Vec::with_capacity(Heap::CLASS_COUNT);
    for cpu in all_cpus(context) {
        let classes = run_on(cpu, |cpu| cpu.heap().class_stats().collect::<Vec<_>>()).await;
        if sums.is_empty() {
            sums = classes;
            continue;
        }
        for (sum, class) in sums.iter_mut().zip(&classes) {
            sum.add(class);
        }
    }
    sums
}
