//! The model of a trace that is known: everything pairs, times add up, and what is lost only
//! makes things shorter and is counted.

mod support;

use executor::trace::record::{EndReason, Event, Record};
use support::{LARGE, Machine, Options};
use tools::trace::build::build;
use tools::trace::convert;
use tools::trace::model::{NoteKind, Trace};
use tools::trace::stream::{CpuRecords, Gap, Stream, ThreadName};

/// A trace of records by CPU, with thread names a, b, c for the name ids 1, 2, 3.
fn trace_of(cpus: Vec<Vec<Record>>) -> Trace {
    let name = |name: &str| ThreadName {
        name: name.into(),
        site: format!("src/{name}.rs:1"),
    };
    build(Stream {
        cpus: cpus.into_iter().map(CpuRecords::from_records).collect(),
        names: [(1, name("a")), (2, name("b")), (3, name("c"))].into(),
        ended: true,
        ..Stream::default()
    })
}

fn count(records: &[Vec<Record>], event: Event) -> usize {
    records
        .iter()
        .flatten()
        .filter(|record| record.event() == Some(event))
        .count()
}

#[test]
fn the_large_trace_pairs_completely() {
    let machine = Machine::run(&LARGE);
    let records = machine.records();
    let trace = convert(&machine.stream());
    assert_eq!(trace.record_count(), 200_000);
    assert_eq!(
        (trace.lost_count(), trace.unmatched, trace.unknown_events),
        (0, 0, 0)
    );
    assert!(trace.health.is_clean() && trace.complete);

    let polls: usize = trace.cpus.iter().map(|cpu| cpu.polls.len()).sum();
    assert_eq!(polls, count(&records, Event::RunBegin));
    let sends = count(&records, Event::IpiSend) + count(&records, Event::IpiDoorbellSaved);
    assert_eq!(
        trace
            .ipis
            .iter()
            .filter(|ipi| ipi.sent_ns.is_some())
            .count(),
        sends
    );
    let rung: u64 = trace
        .ipi_matrix()
        .iter()
        .flatten()
        .map(|cell| cell.doorbells)
        .sum();
    assert_eq!(rung as usize, count(&records, Event::IpiSend));
    // The records of each CPU are cut at 50,000, at other times; before the first of these cuts
    // nothing is missing, so that all that was sent a little earlier has arrived and was answered.
    let first_end = trace
        .cpus
        .iter()
        .map(|cpu| cpu.covered.end_ns)
        .min()
        .unwrap();
    let settled = |sent_ns: u64| sent_ns + 1_000_000 < first_end;
    let settled_ipis = trace
        .ipis
        .iter()
        .filter(|ipi| ipi.sent_ns.is_some_and(settled));
    assert!(settled_ipis.clone().count() > 5_000);
    assert_eq!(
        settled_ipis.filter(|ipi| ipi.received_ns.is_none()).count(),
        0
    );
    assert!(
        trace
            .ipis
            .iter()
            .all(|ipi| match (ipi.sent_ns, ipi.received_ns) {
                (Some(sent), Some(received)) => sent < received,
                _ => true,
            })
    );
    let messages = trace
        .messages
        .iter()
        .filter(|m| m.sent.is_some_and(|(_, ns)| settled(ns)));
    assert!(messages.clone().count() > 5_000);
    assert_eq!(
        messages
            .filter(|m| m.taken.is_none() || m.replied.is_none())
            .count(),
        0
    );
    assert!(trace.token_waits.len() > 10);
    assert!(trace.threads.iter().all(|thread| !thread.site.is_empty()));
    for cpu in &trace.cpus {
        let covered = cpu.covered.duration_ns();
        assert!(cpu.run_ns() + cpu.idle_ns() <= covered);
        let spans: Vec<_> = cpu.polls.iter().map(|poll| poll.span).collect();
        assert!(
            spans
                .windows(2)
                .all(|pair| pair[0].end_ns <= pair[1].begin_ns),
            "overlap"
        );
        assert!(
            cpu.idle
                .windows(2)
                .all(|pair| pair[0].end_ns <= pair[1].begin_ns)
        );
        // Only the last poll can be open at the cut.
        assert!(cpu.polls.iter().rev().skip(1).all(|poll| !poll.cut));
    }
}

#[test]
fn frames_that_go_missing_are_counted_to_the_record() {
    let machine = Machine::run(&Options {
        cpus: 3,
        records_per_cpu: 6_000,
        seed: 3,
    });
    let mut frames = machine.frames();
    let all = frames.len();
    let mut number = 0;
    // HELLO, names and STATS stay; of the record frames every seventh goes, one after the other.
    frames.retain(|_| {
        number += 1;
        number < 15 || number > all - 4 || number % 7 != 0
    });
    let trace = convert(&frames.concat());
    assert!(trace.lost_count() > 1_000);
    assert_eq!(trace.record_count() + trace.lost_count(), 18_000);
    assert_eq!(trace.unmatched, 0, "an end after a hole is no surprise");
    for cpu in &trace.cpus {
        assert!(!cpu.gaps.is_empty());
        for gap in &cpu.gaps {
            let inside = |at: u64| gap.span.begin_ns < at && at < gap.span.end_ns;
            for poll in &cpu.polls {
                assert!(!inside(poll.span.begin_ns) && !inside(poll.span.end_ns));
            }
        }
    }
    // No latency is longer than the longest of the whole trace: nothing was paired over a hole.
    let longest = |trace: &Trace| {
        let polls = trace.cpus.iter().flat_map(|cpu| &cpu.polls);
        polls.filter_map(|poll| poll.latency_ns).max()
    };
    assert!(longest(&trace) <= longest(&convert(&machine.stream())));
}

#[test]
fn a_wake_leads_to_its_run_across_cpus() {
    let trace = trace_of(vec![
        vec![
            Record::new(10, Event::ThreadSpawn, 12, 5, 1),
            Record::new(20, Event::RunBegin, 0, 5, 0),
            Record::new(30, Event::IpiSend, 1, 0, 77),
            Record::new(90, Event::RunEnd, 0, 5, 0),
        ],
        vec![
            Record::new(11, Event::ThreadSpawn, 12, 5, 2),
            Record::new(12, Event::RunBegin, 0, 5, 0),
            Record::new(13, Event::RunEnd, 0, 5, 0),
            Record::new(14, Event::IdleBegin, 0, 0, 0),
            Record::new(50, Event::IdleEnd, 0, 0, 0),
            Record::new(55, Event::IpiReceive, 0, 0, 77),
            Record::new(60, Event::Wake, 0, 5, 5),
            Record::new(75, Event::RunBegin, 0, 5, 0),
            Record::new(80, Event::RunEnd, 2, 5, 0),
        ],
    ]);
    // One id, two CPUs, two threads.
    let run = trace.cpus[1].polls[1];
    assert_eq!(trace.threads[run.thread as usize].name, "b");
    assert_eq!(
        (run.latency_ns, run.end),
        (Some(15), Some(EndReason::Exited))
    );
    let wake = trace.wakes[run.wake.unwrap() as usize];
    assert_eq!(trace.threads[wake.waker.unwrap() as usize].name, "a");
    assert_eq!((wake.from_cpu, wake.cpu, wake.run_ns), (0, 1, Some(75)));
    assert_eq!(
        (trace.ipis[0].sent_ns, trace.ipis[0].received_ns),
        (Some(30), Some(55))
    );
    assert!(trace.ipis[0].doorbell);
    assert_eq!(trace.cpus[1].idle_ns(), 36);
}

#[test]
fn a_receipt_before_its_sending_still_pairs() {
    // The clock of CPU 1 is 40 ns behind.
    let trace = trace_of(vec![
        vec![Record::new(100, Event::IpiDoorbellSaved, 1, 0, 9)],
        vec![Record::new(60, Event::IpiReceive, 0, 0, 9)],
    ]);
    assert_eq!(trace.ipis.len(), 1);
    assert_eq!(trace.ipis[0].received_ns, Some(60));
    assert_eq!(trace.ipis[0].sent_ns, Some(60), "no arrow against time");
    assert_eq!((trace.early.count, trace.early.most_ns), (1, 40));
}

#[test]
fn a_thread_woken_in_its_own_poll_waits_from_the_end_of_it() {
    let trace = trace_of(vec![vec![
        Record::new(0, Event::RunBegin, 0, 5, 0),
        Record::new(10, Event::Wake, 0, 5, 5),
        Record::new(1_000, Event::RunEnd, 1, 5, 0),
        Record::new(1_030, Event::RunBegin, 0, 5, 0),
        Record::new(1_040, Event::RunEnd, 0, 5, 0),
    ]]);
    assert_eq!(trace.cpus[0].polls[1].latency_ns, Some(30));
}

#[test]
fn a_migrating_thread_keeps_its_name() {
    let trace = trace_of(vec![
        vec![
            Record::new(0, Event::ThreadSpawn, 12, 9, 3),
            Record::new(10, Event::RunBegin, 0, 9, 0),
            Record::new(20, Event::Migrate, 1, 9, 0),
            Record::new(21, Event::RunEnd, 3, 9, 0),
        ],
        vec![
            Record::new(40, Event::RunBegin, 0, 9, 0),
            Record::new(50, Event::RunEnd, 0, 9, 0),
        ],
    ]);
    let thread = trace.cpus[1].polls[0].thread;
    assert_eq!(trace.threads[thread as usize].name, "c");
    assert_eq!(
        (trace.migrations[0].to, trace.migrations[0].run_ns),
        (1, Some(40))
    );
}

#[test]
fn the_first_records_may_lack_their_begins() {
    let trace = trace_of(vec![vec![
        Record::new(100, Event::Mark, 0, 0, 42),
        Record::new(160, Event::RunEnd, 0, 5, 0),
        Record::new(170, Event::InterruptEnd, 11, 0, 0),
        Record::new(180, Event::RunBegin, 0, 6, 0),
    ]]);
    let polls = &trace.cpus[0].polls;
    assert_eq!(
        (polls[0].span.begin_ns, polls[0].span.end_ns, polls[0].cut),
        (100, 160, true)
    );
    assert!(polls[1].cut, "still running at the end");
    assert_eq!(trace.threads[polls[0].thread as usize].name, "thread 5");
    assert_eq!(trace.notes[0].kind, NoteKind::Mark(42));
}

#[test]
fn ends_without_begins_inside_are_counted_not_drawn() {
    let trace = trace_of(vec![vec![
        Record::new(0, Event::IdleBegin, 0, 0, 0),
        Record::new(5, Event::IdleEnd, 0, 0, 0),
        Record::new(7, Event::RunEnd, 0, 5, 0),
        Record::new(9, Event::IdleEnd, 0, 0, 0),
        Record::new(9, Event::InterruptEnd, 0, 0, 0),
        Record {
            time_ns: 9,
            word: 200,
        },
    ]]);
    assert_eq!((trace.unmatched, trace.unknown_events), (3, 1));
    assert!(trace.cpus[0].polls.is_empty());
}

#[test]
fn records_with_absurd_fields_do_no_harm() {
    let mut records = Vec::new();
    for code in 0..=255 {
        for (small, thread, arg) in [(255, 0xffff, u32::MAX), (0, 0, 0), (7, 3, 1 << 31)] {
            records.push(Record::from_parts(u64::MAX - 5, code, small, thread, arg));
            records.push(Record::from_parts(3, code, small, thread, arg));
        }
    }
    let trace = trace_of(vec![records.clone(), records]);
    assert_eq!(trace.cpus.len(), 2);
    let mut out = Vec::new();
    tools::trace::text::write_dump(&trace, tools::trace::text::Style::Plain, &mut out).unwrap();
    tools::trace::text::write_summary(&trace, tools::trace::text::Style::Plain, &mut out).unwrap();
    tools::trace::perfetto::write(&trace, &mut out).unwrap();
    tools::trace::html::write(&trace, &mut out).unwrap();
}

/// The run that answered the wake may be among the lost: what is seen later is another.
#[test]
fn a_wake_before_a_hole_is_not_paired_with_a_run_after_it() {
    let mut cpu = CpuRecords::from_records(vec![
        Record::new(10, Event::Wake, 0, 5, 0),
        Record::new(20, Event::IdleBegin, 0, 0, 0),
        Record::new(900, Event::RunBegin, 0, 5, 0),
        Record::new(910, Event::RunEnd, 0, 5, 0),
    ]);
    cpu.gaps.push(Gap {
        before: 2,
        lost: 40,
        lost_in_ring: 40,
    });
    let trace = build(Stream {
        cpus: vec![cpu],
        ..Stream::default()
    });
    let poll = trace.cpus[0].polls[0];
    assert_eq!((poll.latency_ns, poll.wake), (None, None));
    assert_eq!(trace.cpus[0].idle_ns(), 0, "idle time ends before the hole");
    let gap = trace.cpus[0].gaps[0];
    assert_eq!((gap.span.begin_ns, gap.span.end_ns), (20, 900));
    assert_eq!((gap.lost, trace.lost_count()), (40, 40));
}
