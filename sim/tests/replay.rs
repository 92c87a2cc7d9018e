//! The same seed is the same run: byte for byte, whoever runs it beside whatever else, traced or not.

use executor::trace::ClassMask;
use sim::run::{Outcome, run};
use sim::scenarios::{ALL, Options, Scenario};

/// One process holds all tests of this file; each run has its own arenas.
fn reserve() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| kernel::platform::arena::reserve(40, 16 << 20).expect("addresses"));
}

fn traced(scenario: &Scenario, seed: u64) -> Outcome {
    run(
        scenario,
        seed,
        &Options::default(),
        None,
        Some(ClassMask::ALL),
    )
}

fn bytes(outcome: &Outcome) -> Vec<u8> {
    assert_eq!(outcome.violation, None);
    let stream = outcome
        .recorder
        .as_ref()
        .expect("it was traced")
        .stream("test");
    assert!(stream.len() > 2_000, "there was something to trace");
    stream
}

#[test]
fn the_same_seed_gives_byte_equal_traces_and_another_does_not() {
    reserve();
    for scenario in ALL {
        let first = bytes(&traced(scenario, 3));
        // Other addresses and another thread: nothing of the run may depend on them.
        let _elsewhere: Vec<Vec<u8>> = (1..200).map(|size| vec![0; size * 100]).collect();
        let second = std::thread::spawn(|| bytes(&traced(scenario, 3)))
            .join()
            .expect("no panic");
        assert!(
            first == second,
            "{}: the same seed ran differently",
            scenario.name
        );
        assert!(
            first != bytes(&traced(scenario, 4)),
            "{}: the seed decides nothing",
            scenario.name
        );
    }
}

#[test]
fn a_trace_changes_nothing() {
    reserve();
    for scenario in ALL {
        let (with, without) = (
            traced(scenario, 5),
            run(scenario, 5, &Options::default(), None, None),
        );
        let tally = |outcome: &Outcome| {
            (
                outcome.tally.steps,
                outcome.tally.frames,
                outcome.tally.faults,
            )
        };
        assert_eq!(tally(&with), tally(&without), "{}", scenario.name);
    }
}

#[test]
fn an_act_left_out_does_not_happen() {
    reserve();
    let carp = sim::scenarios::find("carp").expect("it is there");
    let whole = run(carp, 1, &Options::default(), None, None);
    let heal = whole.acts.len() - 1;
    let peaceful = run(carp, 1, &Options::default(), Some(&[heal]), None);
    assert_eq!(peaceful.acts.len(), 1);
    assert!(peaceful.tally.faults < whole.tally.faults);
    assert_eq!(peaceful.violation, None);
}
