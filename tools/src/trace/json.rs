//! The summary of a trace as one JSON object, for programs.
//!
//! [`summary`] says what `text::write_summary` says. Durations are in nanoseconds and their names
//! end in `_ns`.
//!
//! Decision: the summary and not the records. Who wants records reads the Perfetto file, which has
//! a schema and a query language.

use serde_json::{Value, json};

use super::histogram::{self, Histogram};
use super::model::Trace;

/// The object.
pub fn summary(trace: &Trace) -> Value {
    let cpus: Vec<Value> = trace
        .cpus
        .iter()
        .map(|cpu| {
            json!({
                "covered_ns": cpu.covered.duration_ns(),
                "run_ns": cpu.run_ns(),
                "idle_ns": cpu.idle_ns(),
                "interrupt_ns": cpu.interrupt_ns(),
                "polls": cpu.polls.len(),
                "inline_calls": cpu.inline_calls,
                "timer_fires": cpu.timer_fires,
                "records": cpu.records,
                "lost": cpu.lost(),
            })
        })
        .collect();
    let longest: Vec<Value> = trace
        .longest_polls(10)
        .into_iter()
        .map(|(cpu, poll)| {
            let thread = &trace.threads[poll.thread as usize];
            json!({
                "ran_ns": poll.span.duration_ns(),
                "cut": poll.cut,
                "cpu": cpu,
                "at_ns": poll.span.begin_ns - trace.start_ns,
                "thread": thread.name,
                "id": thread.id,
                "spawned_at": thread.site,
            })
        })
        .collect();
    let matrix: Vec<Vec<Value>> = trace
        .ipi_matrix()
        .iter()
        .map(|row| {
            let cells = row.iter();
            cells
                .map(|cell| json!({"sent": cell.sent, "doorbells": cell.doorbells}))
                .collect()
        })
        .collect();
    let answered = trace
        .messages
        .iter()
        .filter(|message| message.replied.is_some());
    json!({
        "hostname": trace.hostname,
        "duration_ns": trace.duration_ns(),
        "records": trace.record_count(),
        "lost": trace.lost_count(),
        "complete": trace.complete,
        "bad_frames": trace.health.bad_checksums + trace.health.broken_frames,
        "unmatched": trace.unmatched,
        "early_arrivals": trace.early.count,
        "threads": trace.threads.len(),
        "wakes": trace.wakes.len(),
        "messages_answered": answered.count(),
        "migrations": trace.migrations.len(),
        "token_waits": trace.token_waits.len(),
        "cpus": cpus,
        "ipi": matrix,
        "longest_polls": longest,
        "run_time": histogram::run_times(trace).map(distribution),
        "wake_to_run": histogram::wake_latencies(trace).map(distribution),
    })
}

fn distribution(histogram: Histogram) -> Value {
    let buckets: Vec<Value> = histogram
        .buckets
        .iter()
        .map(|bucket| json!({"from_ns": bucket.from_ns, "to_ns": bucket.to_ns, "count": bucket.count}))
        .collect();
    json!({
        "count": histogram.count,
        "sum_ns": histogram.sum_ns,
        "p50_ns": histogram.p50_ns,
        "p90_ns": histogram.p90_ns,
        "p99_ns": histogram.p99_ns,
        "max_ns": histogram.max_ns,
        "buckets": buckets,
    })
}
