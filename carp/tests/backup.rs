//! INIT and BACKUP: when a vhid takes part, when it takes over, and when it keeps silent.

use carp::{Config, DropReason, Link, State, Timing, Vhid};
use common::bench::*;

mod common;

#[test]
fn init_ends_when_interface_link_source_and_address_are_there_in_any_order() {
    let inputs: [Input; 4] = [
        |v| v.on_interface(0, Link::Up),
        |v| v.on_link(0, Link::Up),
        |v| v.set_source(0, Some(OWN)),
        |v| v.set_addresses(0, vec![VIRTUAL.into()]),
    ];
    for last in 0..4 {
        let mut bench = Bench::init(skew(0));
        for (index, input) in inputs.iter().enumerate() {
            if index != last {
                assert_eq!(words(&input(&mut bench.vhid)), NOTHING);
            }
        }
        assert_eq!(
            (bench.state(), bench.vhid.next_deadline_ns()),
            (State::Init, None)
        );
        let actions = inputs[last](&mut bench.vhid);
        assert_eq!(words(&actions), ["INIT>BACKUP initialization complete"]);
    }
}

#[test]
fn init_hears_nothing_and_counts_it() {
    let mut bench = Bench::init(preempting(0));
    assert_eq!(bench.hear(1, peer(255, 255)), NOTHING);
    assert_eq!(bench.vhid.counters().dropped(DropReason::Interface), 1);
    assert_eq!(words(&bench.vhid.force_master(1)), NOTHING);
    assert_eq!(bench.state(), State::Init);
}

#[test]
fn losing_what_init_waits_for_goes_back_to_init_without_a_word() {
    let losses: [(Input, &str); 3] = [
        (
            |v| v.on_link(1, Link::Down),
            "MASTER>INIT hardware interface down",
        ),
        (
            |v| v.on_interface(1, Link::Down),
            "MASTER>INIT interface down",
        ),
        (|v| v.set_source(1, None), "MASTER>INIT no address left"),
    ];
    for (lose, word) in losses {
        let mut bench = Bench::master(skew(0));
        assert_eq!(words(&lose(&mut bench.vhid)), [word]);
        assert_eq!(bench.vhid.next_deadline_ns(), None);
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    assert!(Vhid::new(0, COOKIE, skew(0)).is_err());
    assert!(Vhid::new(1, COOKIE, skew(255)).is_err());
    assert!(Bench::backup(skew(0)).vhid.configure(0, skew(255)).is_err());
}

#[test]
fn backup_takes_over_when_the_master_down_timer_runs_out_not_before() {
    // advbase, advskew, master down in ms (rounded up)
    for (advbase, advskew, down_ms) in [(1, 0, 3000), (1, 100, 3391), (0, 4, 47), (0, 0, 12)] {
        let config = Config {
            timing: timing(advbase, advskew),
            ..Config::default()
        };
        let mut bench = Bench::backup(config);
        assert_eq!(bench.timer(down_ms - 1), NOTHING);
        let advert = format!("advert {advbase}/{advskew}");
        assert_eq!(
            bench.timer(down_ms),
            ["BACKUP>MASTER master timed out", &advert, "garp"],
            "{advbase}/{advskew}"
        );
    }
}

#[test]
fn backup_is_silent_and_waits_anew_after_each_advert() {
    let mut bench = Bench::backup(skew(100));
    for at_ms in (0..20_000).step_by(1000) {
        assert_eq!(bench.run(at_ms), NOTHING);
        assert_eq!(bench.hear(at_ms, peer(1, 0)), NOTHING);
    }
    assert_eq!(bench.vhid.master(), Some(HIGHER));
    assert_eq!(bench.run(22_390), NOTHING);
    assert_eq!(bench.run(22_391)[0], "22390 BACKUP>MASTER master timed out");
}

#[test]
fn backup_meets_a_live_master() {
    const SLOWER: &str = "BACKUP>MASTER preempting a slower master";
    const DEMOTED: &str = "BACKUP>MASTER preempting a demoted master";
    const TOO_SLOW: &str = "BACKUP>MASTER master will time out";
    let table = [
        // own skew, preempt, theirs, their demotion, outcome
        (100, true, (1, 99), 0, ""),
        (100, true, (1, 100), 0, ""), // equal: leave it
        (100, true, (1, 101), 0, SLOWER),
        (100, false, (1, 101), 0, ""),
        (100, true, (1, 0), 1, DEMOTED),
        (100, false, (1, 0), 1, DEMOTED), // demotion needs no preempt
        (100, false, (3, 99), 0, ""),
        (100, false, (3, 101), 0, TOO_SLOW),
        (100, true, (0, 200), 0, ""),
    ];
    for (advskew, preempt, (base, skew), demotion, outcome) in table {
        let mut bench = Bench::backup(Config {
            preempt,
            ..self::skew(advskew)
        });
        let heard = bench.hear(
            10,
            Peer {
                demotion,
                ..peer(base, skew)
            },
        );
        let first = heard.first().map_or("", String::as_str);
        assert_eq!(
            first, outcome,
            "{advskew} {preempt} {base}/{skew} {demotion}"
        );
    }
}

#[test]
fn demoted_backup_leaves_a_better_master_alone_but_not_a_dead_one() {
    let mut bench = Bench::backup(preempting(0));
    assert_eq!(
        words(&bench.vhid.set_demotion(0, "boot", 128)),
        ["demoted by 128 to 128 (boot)"]
    );
    assert_eq!(bench.hear(100, peer(1, 100)), NOTHING);
    assert_eq!(
        bench.hear(
            200,
            Peer {
                demotion: 127,
                ..peer(1, 250)
            }
        ),
        NOTHING
    );
    assert_eq!(bench.run(3200)[0], "3200 BACKUP>MASTER master timed out");
}

#[test]
fn bow_out_hands_over_at_once_at_any_timing_without_preempt_and_demoted() {
    for own in [
        timing(1, 0),
        timing(1, 254),
        timing(0, 2),
        timing(0, 0),
        timing(255, 254),
    ] {
        let mut bench = Bench::backup(Config {
            timing: own,
            ..Config::default()
        });
        let _ = bench.hear(
            1,
            Peer {
                timing: timing(1, 0),
                ..peer(1, 0)
            },
        );
        let _ = bench.vhid.set_demotion(1, "maintenance", 1);
        let heard = bench.hear(2, peer(255, 255));
        assert_eq!(heard[0], "BACKUP>MASTER master will time out", "{own}");
        assert!(
            heard[1].starts_with("advert") && heard[2] == "garp",
            "{heard:?}"
        );
    }
}

#[test]
fn advbase_0_backup_does_not_depose_a_master_that_is_only_slower() {
    let config = Config {
        timing: timing(0, 2),
        ..Config::default()
    };
    assert_eq!(Bench::backup(config).hear(1, peer(1, 0)), NOTHING);
}

/// We repeat bow-outs: the second must not unseat the successor in a third node's eyes.
#[test]
fn bow_out_of_a_former_master_is_ignored() {
    let mut bench = Bench::backup(skew(100));
    let old = Peer {
        source: LOWER,
        ..peer(1, 0)
    };
    let _ = bench.hear(1, old);
    let _ = bench.hear(2, peer(1, 50));
    assert_eq!(
        bench.hear(
            3,
            Peer {
                timing: Timing::BOW_OUT,
                ..old
            }
        ),
        NOTHING
    );
    assert_eq!(bench.vhid.counters().adverts_left_to_master, 1);
    assert_eq!(
        bench.hear(4, peer(255, 255))[0],
        "BACKUP>MASTER master will time out"
    );

    // The same where both are slower than we are, and left in place.
    let mut bench = Bench::backup(skew(0));
    let old = Peer {
        source: LOWER,
        ..peer(1, 20)
    };
    let _ = bench.hear(1, old);
    let _ = bench.hear(2, peer(1, 50));
    let stale = Peer {
        timing: Timing::BOW_OUT,
        ..old
    };
    assert_eq!(bench.hear(3, stale), NOTHING);
}

#[test]
fn preempt_delay_spares_a_live_master_only() {
    let delayed = Config {
        preempt_delay_ns: 10_000 * MS,
        ..preempting(0)
    };
    let mut bench = Bench::backup(delayed.clone());
    for at_ms in (0..10_000).step_by(1000) {
        assert_eq!(bench.hear(at_ms, peer(1, 100)), NOTHING);
    }
    assert_eq!(
        bench.hear(10_000, peer(1, 100))[0],
        "BACKUP>MASTER preempting a slower master"
    );
    assert_eq!(
        Bench::backup(delayed).run(3000)[0],
        "3000 BACKUP>MASTER master timed out"
    );
}

/// A frozen machine wakes with the timer due and the master's adverts still in the queue.
#[test]
fn backup_that_was_frozen_gives_queued_adverts_a_chance_once() {
    let mut bench = Bench::backup(skew(100));
    assert_eq!(bench.timer(11_000), NOTHING);
    assert_eq!(bench.hear(11_001, peer(1, 0)), NOTHING);
    assert_eq!(bench.run(14_391), NOTHING);
    assert_eq!(bench.run(14_392)[0], "14391 BACKUP>MASTER master timed out");

    let mut bench = Bench::backup(skew(100));
    assert_eq!(bench.timer(11_000), NOTHING);
    assert_eq!(bench.timer(20_000)[0], "BACKUP>MASTER master timed out");
    assert_eq!(bench.vhid.counters().time_jumps, 1);
}

/// Found by the simulation: after a partition heals, a third node must not join the contest.
#[test]
fn second_master_worse_than_ours_and_us_is_left_to_our_master() {
    let mut bench = Bench::backup(preempting(50));
    let best = Peer {
        source: LOWER,
        ..peer(1, 0)
    };
    let _ = bench.hear(0, best);
    assert_eq!(bench.hear(10, peer(1, 100)), NOTHING);
    assert_eq!(bench.vhid.master(), Some(LOWER));
    // It does not count as a sign of life of our master either.
    assert_eq!(bench.run(3195).len(), 0);
    assert_eq!(bench.run(3196)[0], "3195 BACKUP>MASTER master timed out");
    // But a master that is better than us is followed, though worse than the one before.
    let mut bench = Bench::backup(preempting(50));
    let _ = bench.hear(0, best);
    assert_eq!(bench.hear(3000, peer(1, 25)), NOTHING);
    assert_eq!(bench.run(6000), NOTHING);
}

/// Found by the simulation: a fast node, demoted or without preempt, timed a live master out.
#[test]
fn master_left_in_place_is_not_timed_out_between_two_of_its_adverts() {
    let fast = |preempt| Config {
        timing: timing(0, 2),
        preempt,
        ..Config::default()
    };
    let slow_master = peer(0, 64); // 250 ms
    let mut without_preempt = Bench::backup(fast(false));
    let mut demoted = Bench::backup(fast(true));
    let _ = demoted.vhid.set_demotion(0, "test", 1);
    for bench in [&mut without_preempt, &mut demoted] {
        for at_ms in (0..2000).step_by(250) {
            assert_eq!(bench.run(at_ms), NOTHING);
            assert_eq!(bench.hear(at_ms, slow_master), NOTHING);
        }
        assert_eq!(
            bench.run(1750 + 750)[0],
            "2500 BACKUP>MASTER master timed out"
        );
    }
    // Timing is outside the HMAC: a forged value must not silence a backup for minutes.
    let mut bench = Bench::backup(fast(false));
    let _ = bench.hear(0, peer(255, 254));
    assert_eq!(bench.run(10_000)[0], "10000 BACKUP>MASTER master timed out");
}
