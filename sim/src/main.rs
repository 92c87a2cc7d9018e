//! `sim`: runs seeds of a scenario.
use sim::run::run;
use sim::scenarios::{ALL, Options};

fn main() {
    kernel::platform::arena::reserve(16, 16 << 20).unwrap();
    let seeds: u64 = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(1);
    let from: u64 = std::env::args()
        .nth(2)
        .and_then(|a| a.parse().ok())
        .unwrap_or(0);
    let began = std::time::Instant::now();
    let mut steps = 0;
    let mut virt = 0;
    for seed in from..from + seeds {
        let outcome = run(&ALL[0], seed, &Options::default(), None, None);
        steps += outcome.tally.steps;
        virt += outcome.tally.virtual_ns;
        if let Some((at, violation)) = outcome.violation {
            println!("seed {seed}: at {} {violation:?}", sim::act::Seconds(at));
            for (at, line) in &outcome.story {
                println!("   {} {line}", sim::act::Seconds(*at));
            }
            for (name, screen) in &outcome.screens {
                println!("--{name}\n{}", String::from_utf8_lossy(screen));
            }
            if std::env::var("GO").is_err() {
                break;
            }
        }
    }
    let s = began.elapsed().as_secs_f64();
    println!(
        "{steps} steps {:.2} M/s, {:.1} virtual s/s, {:.1} seeds/s",
        steps as f64 / s / 1e6,
        virt as f64 / 1e9 / s,
        seeds as f64 / s
    );
}
