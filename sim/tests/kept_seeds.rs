//! Seeds that once failed, each with its story, kept as a test. A seed tells another story when its scenario has changed: the
//! number of its acts says so, and then the bug is planted once more and a seed looked for that finds it.

use sim::run::run;
use sim::scenarios::{Options, find};

/// Scenario, seed, how many acts its script has, what it showed.
const KEPT: &[(&str, u64, usize, &str)] = &[
    (
        "carp",
        413,
        16,
        "a question for a client's Ethernet address was lost, and asked again only after a second or more: the new master was \
         silent for that long, with timers of milliseconds",
    ),
    (
        "carp",
        490,
        17,
        "a node spoke for the address before it logged that it was master: the change was logged when all CPUs knew",
    ),
    (
        "executor",
        294,
        18,
        "a CPU that had fired its last timer took the hardware's for unset, and slept with it set to a time that was over",
    ),
    (
        "executor",
        15,
        11,
        "a CPU fell asleep with its timer set to what was over: the simulator woke it in the past, and time went back for everybody",
    ),
];

#[test]
fn what_was_mended_stays_mended() {
    kernel::platform::arena::reserve(20, 16 << 20).expect("addresses");
    for (name, seed, acts, story) in KEPT {
        let scenario = find(name).expect("a scenario of that name");
        let outcome = run(scenario, *seed, &Options::default(), None, None);
        assert_eq!(
            outcome.acts.len(),
            *acts,
            "{name} {seed} tells another story by now"
        );
        assert_eq!(outcome.violation, None, "{name} {seed}: {story}");
    }
}
