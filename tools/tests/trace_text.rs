//! The text output against files that a person has read: `golden/trace_dump.txt` and
//! `golden/trace_summary.txt`. After a wanted change, run with UPDATE_GOLDEN=1 and read the diff.

mod support;

use std::path::Path;

use support::{Machine, Options};
use tools::trace::convert;
use tools::trace::text::{Style, write_dump, write_summary};

fn check(name: &str, text: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = String::from_utf8(text.to_vec()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let first = text
        .lines()
        .zip(golden.lines())
        .position(|(is, was)| is != was);
    assert!(
        text == golden,
        "{name} differs from line {first:?} on:\n{text}"
    );
}

#[test]
fn a_small_dump_reads_as_it_did() {
    let machine = Machine::run(&Options {
        cpus: 2,
        records_per_cpu: 60,
        seed: 5,
    });
    let mut frames = machine.frames();
    // The first frame of records of the second CPU is lost: the dump shows where and how many.
    let lost = frames
        .iter()
        .position(|frame| frame.len() > 2 && frame[1..3] == [2, 1]);
    frames.remove(lost.unwrap());
    let mut text = Vec::new();
    write_dump(&convert(&frames.concat()), Style::Plain, &mut text).unwrap();
    check("trace_dump.txt", &text);
}

#[test]
fn a_summary_reads_as_it_did() {
    let machine = Machine::run(&Options {
        cpus: 4,
        records_per_cpu: 5_000,
        seed: 5,
    });
    let mut text = Vec::new();
    write_summary(&convert(&machine.stream()), Style::Plain, &mut text).unwrap();
    check("trace_summary.txt", &text);
}

#[test]
fn colours_change_nothing_but_colours() {
    let machine = Machine::run(&Options {
        cpus: 2,
        records_per_cpu: 200,
        seed: 5,
    });
    let trace = convert(&machine.stream());
    let (mut plain, mut colour) = (Vec::new(), Vec::new());
    write_summary(&trace, Style::Plain, &mut plain).unwrap();
    write_dump(&trace, Style::Plain, &mut plain).unwrap();
    write_summary(&trace, Style::Colour, &mut colour).unwrap();
    write_dump(&trace, Style::Colour, &mut colour).unwrap();
    let colour = String::from_utf8(colour).unwrap();
    let mut stripped = String::new();
    for (index, part) in colour.split('\x1b').enumerate() {
        stripped.push_str(if index == 0 {
            part
        } else {
            part.split_once('m').unwrap().1
        });
    }
    assert_ne!(stripped, colour);
    let trim = |text: &str| {
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(trim(&stripped), trim(&String::from_utf8(plain).unwrap()));
}

#[test]
fn an_empty_stream_says_so_without_fuss() {
    let mut text = Vec::new();
    write_summary(&convert(b""), Style::Plain, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("0 records") && text.contains("cut off"),
        "{text}"
    );
}
