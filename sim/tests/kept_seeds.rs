//! Seeds that once failed, each with its story, kept as a test. A seed tells another story when its scenario has changed: the
//! number of acts and of steps says so, and then the bug is planted once more and a seed looked for that finds it.

use sim::run::run;
use sim::scenarios::{Options, find};

/// Scenario, seed, what it showed.
const KEPT: &[(&str, u64, &str)] = &[
    (
        "carp",
        1240,
        "a question for the client's Ethernet address was lost, and asked again only after a second: the new master was \
         silent for that long, with timers of milliseconds",
    ),
    (
        "carp",
        1218,
        "a node answered for the address before it logged that it was master: the change was logged after all CPUs knew",
    ),
    (
        "carp",
        1435,
        "as 1240, in a quiet LAN: the lost question was one of an earlier time of bad cables",
    ),
];

#[test]
fn what_was_mended_stays_mended() {
    kernel::platform::arena::reserve(20, 16 << 20).expect("addresses");
    for (name, seed, story) in KEPT {
        let scenario = find(name).expect("a scenario of that name");
        let outcome = run(scenario, *seed, &Options::default(), None, None);
        assert_eq!(outcome.violation, None, "{name} {seed}: {story}");
    }
}
