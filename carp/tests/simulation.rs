//! Elections on a virtual LAN, many seeds: exactly one master within the bound, and recovery.
//!
//! Bounds are the formula's: a dead master is replaced within master-down of the best backup
//! (counted from its last advertisement); two masters that hear each other are one after the
//! better one's next advertisement. [`SLACK_NS`] is the way of a few packets.

use carp::{Config, State, Timing};
use common::lan::{DELAY_MAX_NS, Lan, MS};

mod common;

const SEEDS: u64 = 40;
const SECOND: u64 = 1000 * MS;
const SLACK_NS: u64 = 4 * DELAY_MAX_NS;

fn config(advbase: u8, advskew: u8, preempt: bool) -> Config {
    Config {
        timing: Timing { advbase, advskew },
        preempt,
        ..Config::default()
    }
}

/// Pairs of (settings of the nodes), slow and fast, all with preempt.
fn families() -> [Vec<Config>; 4] {
    [
        vec![config(1, 0, true), config(1, 100, true)],
        vec![config(0, 2, true), config(0, 4, true)],
        vec![
            config(1, 0, true),
            config(1, 50, true),
            config(1, 100, true),
        ],
        vec![config(0, 2, true), config(0, 8, true), config(0, 16, true)],
    ]
}

fn master_down_ns(config: &Config) -> u64 {
    config.timing.master_down_ns()
}

/// Longer than any timer of these nodes.
fn settle_ns(configs: &[Config]) -> u64 {
    3 * configs.iter().map(master_down_ns).max().unwrap()
}

/// Asserts that there is one master, since `by_ns` at the latest, and that it is node `who`.
#[track_caller]
fn assert_single(lan: &Lan, by_ns: u64, who: usize, what: &str) {
    let since_ns = lan.single_since_ns();
    assert!(
        since_ns.is_some_and(|since| since <= by_ns),
        "{what}: {:?}, by {by_ns}",
        lan.history
    );
    assert_eq!(lan.masters(), [who], "{what}");
}

#[test]
fn best_node_becomes_master_at_cold_start_and_stays() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            assert_single(
                &lan,
                master_down_ns(&configs[0]) + SLACK_NS,
                0,
                "cold start",
            );
            lan.run(10 * settle_ns(&configs));
            assert_single(&lan, master_down_ns(&configs[0]) + SLACK_NS, 0, "later");
            assert_eq!(lan.nodes[0].vhid.counters().split_brain, 0);
        }
    }
}

#[test]
fn crash_is_noticed_within_master_down_and_the_returning_node_preempts_without_a_gap() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            let run_ns = settle_ns(&configs) + lan.random.below(SECOND);
            lan.run(run_ns);
            let crashed_ns = lan.now_ns;
            lan.crash(0);
            lan.run(settle_ns(&configs));
            let bound_ns = crashed_ns + master_down_ns(&configs[1]) + SLACK_NS;
            assert_single(&lan, bound_ns, 1, "crash");

            lan.history.clear();
            let back_ns = lan.now_ns;
            lan.boot(0);
            lan.run(settle_ns(&configs));
            let interval_ns = configs[1].timing.interval_ns();
            assert_single(&lan, back_ns + interval_ns + SLACK_NS, 0, "preempt");
            assert!(
                lan.history.iter().all(|(_, count)| *count >= 1),
                "{:?}",
                lan.history
            );
        }
    }
}

#[test]
fn without_preempt_the_returning_node_waits() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, [config(1, 0, false), config(1, 100, false)]);
        lan.run(10 * SECOND);
        lan.crash(0);
        lan.run(10 * SECOND);
        lan.boot(0);
        lan.run(60 * SECOND);
        assert_eq!(lan.masters(), [1]);
        assert_eq!(lan.nodes[1].vhid.counters().became_master, 1);
    }
}

#[test]
fn each_side_of_a_partition_has_a_master_and_healing_leaves_the_best_who_announces() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            let last = configs.len() - 1;
            lan.nodes[last].side = 1;
            lan.run(settle_ns(&configs));
            assert_eq!(lan.masters(), [0, last], "one master on each side");

            let run_ns = lan.random.below(SECOND);
            lan.run(run_ns);
            lan.nodes[last].side = 0;
            let healed_ns = lan.now_ns;
            lan.run(settle_ns(&configs));
            // Either side's next advertisement ends it, so the faster interval is the bound.
            let interval_ns = configs[0].timing.interval_ns();
            assert_single(&lan, healed_ns + interval_ns + SLACK_NS, 0, "heal");
            let garp_ns = lan.nodes[0].last_garp_ns;
            let heard = lan.nodes[0].vhid.counters().split_brain > 0;
            assert!(
                !heard || garp_ns >= healed_ns,
                "who hears a second master announces"
            );
        }
    }
}

/// CARP's own rule would have both step down and race again.
#[test]
fn of_equal_masters_the_lowest_address_stays_without_a_gap() {
    for (seed, base) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let configs = vec![config(base, 10, seed % 2 == 0); 3];
        let mut lan = Lan::new(seed, configs.clone());
        for node in 0..3 {
            lan.nodes[node].side = node as u8;
        }
        lan.run(settle_ns(&configs));
        assert_eq!(lan.masters(), [0, 1, 2]);
        lan.history.clear();
        for node in 0..3 {
            lan.nodes[node].side = 0;
        }
        let healed_ns = lan.now_ns;
        lan.run(settle_ns(&configs));
        let interval_ns = configs[0].timing.interval_ns();
        assert_single(&lan, healed_ns + interval_ns + SLACK_NS, 0, "heal");
        assert!(
            lan.history.iter().all(|(_, count)| *count >= 1),
            "{:?}",
            lan.history
        );
    }
}

#[test]
fn handover_never_leaves_the_address_without_a_master_even_if_two_bow_outs_are_lost() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            lan.history.clear();
            let asked_ns = lan.now_ns;
            let first_lost = seed % 3;
            lan.loss_percent = if first_lost > 0 { 100 } else { 0 };
            lan.input(0, |vhid, now_ns| vhid.force_backup(now_ns));
            lan.run(first_lost * 20 * MS - first_lost.min(1) * MS);
            lan.loss_percent = 0;
            lan.run(MS + SLACK_NS);
            assert_ne!(lan.masters(), [0]);
            assert_eq!(lan.masters().len(), 1);
            if first_lost < 2 {
                assert!(
                    lan.history.iter().all(|(_, count)| *count >= 1),
                    "{:?}",
                    lan.history
                );
            }
            let single_ns = lan.single_since_ns().unwrap();
            let lost_ns = first_lost * 20 * MS;
            assert!(
                single_ns <= asked_ns + lost_ns + SLACK_NS,
                "{:?}",
                lan.history
            );
        }
    }
}

#[test]
fn orderly_stop_hands_over_at_once_and_start_preempts_back() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            lan.history.clear();
            lan.input(0, |vhid, now_ns| vhid.stop(now_ns));
            lan.run(10 * MS);
            assert_eq!(lan.nodes[0].vhid.state(), State::Init);
            lan.run(settle_ns(&configs));
            assert_eq!(lan.masters(), [1], "the best that is left");
            lan.input(0, |vhid, now_ns| vhid.start(now_ns));
            lan.run(settle_ns(&configs));
            assert_eq!(lan.masters(), [0]);
            assert!(
                lan.history.iter().all(|(_, count)| *count >= 1),
                "{:?}",
                lan.history
            );
        }
    }
}

#[test]
fn demotion_moves_the_address_at_once_without_preempt_and_without_a_gap() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, [config(1, 0, false), config(1, 254, false)]);
        lan.run(20 * SECOND);
        lan.history.clear();
        let told_ns = lan.now_ns;
        lan.input(0, |vhid, now_ns| {
            vhid.set_demotion(now_ns, "maintenance", 1)
        });
        lan.run(10 * SECOND);
        assert_single(&lan, told_ns + SLACK_NS, 1, "demoted");
        assert!(
            lan.history.iter().all(|(_, count)| *count >= 1),
            "{:?}",
            lan.history
        );
    }
}

#[test]
fn frozen_master_is_replaced_and_the_thaw_leaves_one() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            lan.freeze(0);
            lan.run(settle_ns(&configs));
            assert_eq!(lan.masters(), [1]);
            let thawed_ns = lan.now_ns;
            lan.thaw(0);
            lan.run(settle_ns(&configs));
            assert_single(&lan, thawed_ns + SLACK_NS, 0, "thaw");
        }
    }
}

#[test]
fn frozen_backup_wakes_without_disturbing_its_master() {
    for configs in families() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed, configs.clone());
            lan.run(settle_ns(&configs));
            lan.freeze(1);
            lan.run(settle_ns(&configs) + SECOND);
            lan.history.clear();
            lan.thaw(1);
            lan.run(settle_ns(&configs));
            assert_eq!(lan.nodes[1].vhid.counters().became_master, 0, "seed {seed}");
        }
    }
}

/// Anything may happen for a while; then the LAN is left in peace.
#[test]
fn after_any_chaos_exactly_one_master_and_then_no_more_changes() {
    for (family, configs) in families().into_iter().enumerate() {
        for seed in 0..SEEDS {
            let mut lan = Lan::new(seed ^ 0xc4a05, configs.clone());
            for _ in 0..30 {
                let node = lan.random.below(configs.len() as u64) as usize;
                match lan.random.below(10) {
                    0 => lan.crash(node),
                    1 => lan.boot(node),
                    2 => lan.freeze(node),
                    3 => lan.thaw(node),
                    4 => lan.nodes[node].side ^= 1,
                    5 => lan.loss_percent = lan.random.below(60),
                    6 => lan.input(node, |vhid, now_ns| vhid.set_demotion(now_ns, "chaos", 9)),
                    7 => lan.input(node, |vhid, now_ns| vhid.clear_demotion(now_ns, "chaos")),
                    8 => lan.input(node, |vhid, now_ns| vhid.force_backup(now_ns)),
                    _ => lan.input(node, |vhid, now_ns| vhid.force_master(now_ns)),
                }
                let run_ns = lan.random.below(settle_ns(&configs) / 2);
                lan.run(run_ns);
            }
            lan.loss_percent = 0;
            for node in 0..configs.len() {
                lan.nodes[node].side = 0;
                lan.thaw(node);
                if !lan.nodes[node].is_up {
                    lan.boot(node);
                }
            }
            let quiet_ns = lan.now_ns;
            lan.run(2 * settle_ns(&configs));
            let settled_ns = quiet_ns + settle_ns(&configs);
            let since_ns = lan.single_since_ns();
            assert!(
                since_ns.is_some_and(|since| since <= settled_ns),
                "family {family} seed {seed}: {:?}",
                lan.history
            );
            // Preempt is on everywhere, so the outcome does not depend on the past.
            let best = (0..configs.len())
                .min_by_key(|node| (lan.nodes[*node].vhid.demotions().total(), *node));
            assert_eq!(
                lan.masters().first().copied(),
                best,
                "family {family} seed {seed}"
            );
        }
    }
}
