//! The page in a real browser, headless: it loads without the network, draws every poll, and says
//! what was lost. Skipped plainly where there is no Chromium.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{LARGE, Machine, Options};
use tools::trace::model::Trace;
use tools::trace::{convert, html};

/// The page's document after its program has run; `None` when there is no browser.
fn document(trace: &Trace, name: &str, address: &str) -> Option<String> {
    let browsers = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let Some(browser) = browsers.into_iter().find_map(find) else {
        println!("SKIPPED: no Chromium (Debian's package is chromium)");
        return None;
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let page = directory.join(format!("{name}.html"));
    let mut bytes = Vec::new();
    html::write(trace, &mut bytes).unwrap();
    std::fs::write(&page, &bytes).unwrap();
    // A profile of its own: a browser that runs already would take the page over.
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .arg("90")
        .arg(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-extensions",
        ])
        .args([
            "--window-size=1600,1000",
            "--virtual-time-budget=2000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}#{address}", page.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("</html>"),
        "no page: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The value of an attribute of the document's root.
fn attribute<'a>(document: &'a str, name: &str) -> &'a str {
    let root = document
        .split_once("<html")
        .and_then(|(_, rest)| rest.split_once('>'))
        .unwrap()
        .0;
    let value = root.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    value
        .and_then(|rest| rest.split_once('"'))
        .map_or("", |(value, _)| value)
}

#[test]
fn it_draws_every_poll_of_the_large_trace() {
    let trace = convert(&Machine::run(&LARGE).stream());
    let Some(page) = document(&trace, "large", "") else {
        return;
    };
    let polls: usize = trace.cpus.iter().map(|cpu| cpu.polls.len()).sum();
    assert_eq!(attribute(&page, "data-drawn"), polls.to_string());
    // Level of detail: a software renderer in a cold browser must stay far below a second.
    let frame_ms: f64 = attribute(&page, "data-frame-ms").parse().unwrap();
    assert!(frame_ms < 500.0, "a frame took {frame_ms} ms");
    for text in [
        "token hammer",
        "200,000",
        "doorbells rung",
        "kernel/src/start.rs:88",
    ] {
        assert!(page.contains(text), "{text} is missing");
    }
    // Panels: ten longest polls, a cell for each pair of CPUs, two histograms with bars.
    assert_eq!(page.matches("aria-label=\"Zoom to ").count(), 10);
    assert!(page.matches("class=\"bar-fill\"").count() >= 10);
    assert_eq!(page.matches("class=\"mark-text\"").count(), 4);
    assert_eq!(page.matches(" rung</small>").count(), 12);
    assert!(page.contains("id=\"lost\" class=\"banner\" role=\"alert\" hidden"));
}

#[test]
fn a_part_of_it_draws_that_part() {
    let trace = convert(&Machine::run(&LARGE).stream());
    let Some(page) = document(&trace, "part", "at=5178000-5200000&theme=dark") else {
        return;
    };
    let from = trace.start_ns + 5_178_000;
    let polls = trace.cpus.iter().flat_map(|cpu| &cpu.polls);
    let inside = polls
        .filter(|p| p.span.end_ns > from && p.span.begin_ns < from + 22_000)
        .count();
    assert_eq!(attribute(&page, "data-drawn"), inside.to_string());
    assert_eq!(attribute(&page, "data-theme"), "dark");
}

#[test]
fn it_says_what_was_lost() {
    let machine = Machine::run(&Options {
        cpus: 3,
        records_per_cpu: 3_000,
        seed: 11,
    });
    let mut frames = machine.frames();
    let mut number = 0;
    frames.retain(|_| {
        number += 1;
        number != 20 && number != 30
    });
    let trace = convert(&frames.concat());
    let Some(page) = document(&trace, "lost", "") else {
        return;
    };
    assert!(!page.contains("id=\"lost\" class=\"banner\" role=\"alert\" hidden"));
    assert!(page.contains(&format!("<b>{} records lost</b>", trace.lost_count())));
}

#[test]
fn a_trace_without_records_is_still_a_page() {
    let Some(page) = document(&convert(b""), "empty", "") else {
        return;
    };
    assert_eq!(attribute(&page, "data-drawn"), "0");
    assert!(page.contains("cut off"));
}
