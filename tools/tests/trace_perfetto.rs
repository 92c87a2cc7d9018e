//! The Perfetto file, decoded with the official protos (Python package `perfetto`), says what the
//! model says. Skipped plainly where that package is not installed.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use support::{LARGE, Machine, Options};
use tools::trace::model::Trace;
use tools::trace::{convert, perfetto};

/// Writes `trace` and returns what the checker printed; `None` when it cannot run here.
fn check(trace: &Trace, name: &str) -> Option<HashMap<String, String>> {
    let importable = Command::new("python3")
        .args([
            "-c",
            "import perfetto.protos.perfetto.trace.perfetto_trace_pb2",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !importable {
        println!(
            "SKIPPED: the Python package perfetto is missing (python3 -m pip install perfetto)"
        );
        return None;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut bytes = Vec::new();
    perfetto::write(trace, &mut bytes).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/check_perfetto.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Some(
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

fn count_of(facts: &HashMap<String, String>, name: &str) -> usize {
    facts.get(name).map_or(0, |value| value.parse().unwrap())
}

#[test]
fn the_official_protos_read_the_large_trace() {
    let trace = convert(&Machine::run(&LARGE).stream());
    let Some(facts) = check(&trace, "large.pftrace") else {
        return;
    };
    let sum = |count: fn(&tools::trace::model::CpuTimeline) -> usize| -> usize {
        trace.cpus.iter().map(count).sum()
    };
    assert_eq!(facts["processes"], "1");
    assert_eq!(facts["process_name"], "kernel_anax");
    for tracks in ["cpu_tracks", "interrupt_tracks", "counter_tracks"] {
        assert_eq!(count_of(&facts, tracks), 4, "{tracks}");
    }
    assert_eq!(count_of(&facts, "poll"), sum(|cpu| cpu.polls.len()));
    assert_eq!(count_of(&facts, "idle"), sum(|cpu| cpu.idle.len()));
    assert_eq!(count_of(&facts, "irq"), sum(|cpu| cpu.interrupts.len()));
    assert_eq!(
        count_of(&facts, "counter"),
        sum(|cpu| cpu.queue_depth.len())
    );
    // Arrows: wake -> run, IPI send -> receive, message -> reply.
    let wakes = trace
        .wakes
        .iter()
        .filter(|wake| wake.run_ns.is_some())
        .count();
    let ipis = trace
        .ipis
        .iter()
        .filter(|i| i.sent_ns.is_some() && i.received_ns.is_some());
    let messages = trace
        .messages
        .iter()
        .filter(|m| m.sent.is_some() && (m.taken.is_some() || m.replied.is_some()));
    assert_eq!(count_of(&facts, "flow1"), wakes);
    assert_eq!(count_of(&facts, "flow2"), ipis.count());
    assert_eq!(count_of(&facts, "flow3"), messages.count());
    assert!(wakes > 10_000);
}

#[test]
fn holes_leave_whole_slices_and_whole_arrows() {
    let machine = Machine::run(&Options {
        cpus: 3,
        records_per_cpu: 3_000,
        seed: 11,
    });
    let mut frames = machine.frames();
    let mut number = 0;
    frames.retain(|_| {
        number += 1;
        number % 4 != 0
    });
    let trace = convert(&frames.concat());
    let Some(facts) = check(&trace, "holes.pftrace") else {
        return;
    };
    let gaps: usize = trace.cpus.iter().map(|cpu| cpu.gaps.len()).sum();
    assert!(gaps > 10);
    assert_eq!(count_of(&facts, "lost"), gaps);
}
