//! Seeds that once failed, each with its story. They run again with everybody else's; a seed that fails anew is a bug that
//! came back, unless the scenario has changed so much that it tells another story by now.

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
