//! MASTER: advertising, announcing, meeting another master, being demoted or frozen.

use std::net::{IpAddr, Ipv4Addr};

use carp::demotion::SEND_ERRORS;
use carp::{Action, Config, DropReason, State};
use common::bench::*;

mod common;

#[test]
fn master_advertises_at_its_interval_and_repeats_garp_after_the_second_advert() {
    let mut bench = Bench::master(skew(64));
    assert_eq!(
        bench.run(5000),
        [
            "10 garp",
            "100 garp",
            "1250 advert 1/64",
            "2500 advert 1/64",
            "2500 garp",
            "3750 advert 1/64",
            "5000 advert 1/64"
        ]
    );
}

#[test]
fn garp_is_refreshed_when_asked() {
    let config = Config {
        announce_refresh_ns: Some(4000 * MS),
        ..skew(0)
    };
    let log = Bench::master(config).run(11_000);
    let garps: Vec<_> = log.iter().filter(|word| word.ends_with("garp")).collect();
    let expected = [
        "10 garp",
        "100 garp",
        "2000 garp",
        "6000 garp",
        "10000 garp",
    ];
    assert_eq!(garps, expected);
}

#[test]
fn master_meets_another_master() {
    const LOSES: &str = "MASTER>BACKUP more frequent advertisement received";
    const STAYS: &str = "garp";
    let table = [
        // own skew, own demotion, theirs, their demotion, their address, first outcome
        (100, 0, (1, 99), 0, HIGHER, LOSES),
        (100, 0, (1, 101), 0, LOWER, STAYS),
        (100, 0, (1, 100), 0, LOWER, LOSES), // equal: the lower address stays
        (100, 0, (1, 100), 0, HIGHER, STAYS),
        (100, 0, (1, 0), 1, HIGHER, STAYS), // demotion beats speed
        (0, 1, (1, 254), 0, HIGHER, LOSES),
        (0, 1, (1, 240), 1, HIGHER, STAYS), // both demoted: 240 against 240, then the address
        (0, 1, (1, 239), 1, HIGHER, LOSES),
        (0, 2, (1, 0), 0, HIGHER, LOSES),
    ];
    for (advskew, own_demotion, (base, skew), demotion, source, outcome) in table {
        let mut bench = Bench::master(self::skew(advskew));
        let _ = bench.vhid.set_demotion(0, "test", own_demotion);
        let heard = bench.hear(
            10,
            Peer {
                source,
                demotion,
                ..peer(base, skew)
            },
        );
        assert_eq!(
            heard[0], outcome,
            "{advskew} {own_demotion} {base}/{skew} {demotion}"
        );
    }
}

#[test]
fn tie_break_compares_addresses_as_big_endian_numbers() {
    // On a little-endian machine ucarp's raw comparison would have it the other way round.
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.set_source(0, Some(Ipv4Addr::new(10, 0, 1, 1)));
    let _ = bench.hear(
        1,
        Peer {
            source: Ipv4Addr::new(10, 0, 0, 255),
            ..peer(1, 0)
        },
    );
    assert_eq!(bench.state(), State::Backup);
}

#[test]
fn master_reannounces_on_every_worse_advert_but_answers_once_per_interval() {
    let mut bench = Bench::master(skew(0));
    let worse = peer(1, 100);
    assert_eq!(bench.hear(100, worse), ["garp", "advert 1/0"]);
    assert_eq!(bench.hear(200, worse), ["garp"]);
    assert_eq!(
        bench.run(1100),
        ["210 garp", "300 garp", "1100 advert 1/0"],
        "what the other had on its way is corrected long before the next advert"
    );
    let healed = bench.hear(1150, worse);
    assert_eq!(
        healed,
        ["split: 192.0.2.6 is also MASTER", "garp", "advert 1/0"]
    );
    assert_eq!(
        bench.run(3150),
        [
            "1160 garp",
            "1250 garp",
            "2150 advert 1/0",
            "3150 advert 1/0",
            "3150 garp"
        ]
    );
}

#[test]
fn master_does_not_yield_to_a_bow_out_even_if_demoted() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.set_demotion(0, "test", 9);
    assert_eq!(
        bench.hear(10, peer(255, 255)),
        ["garp", "advert 1/240 demote 9"]
    );
    assert_eq!(bench.vhid.counters().split_brain, 0);
}

#[test]
fn demotion_is_told_at_once_as_byte_and_as_skew() {
    let mut bench = Bench::master(skew(10));
    let _ = bench.run(100);
    assert_eq!(
        words(&bench.vhid.set_demotion(100 * MS, "gateway lost", 7)),
        ["demoted by 7 to 7 (gateway lost)", "advert 1/240 demote 7"]
    );
    assert_eq!(
        words(&bench.vhid.set_demotion(200 * MS, "gateway lost", 7)),
        NOTHING
    );
    assert_eq!(bench.run(2100), ["2037 advert 1/240 demote 7"]);
    assert_eq!(
        words(&bench.vhid.clear_demotion(2100 * MS, "gateway lost")),
        ["demoted by -7 to 0 (gateway lost)", "advert 1/10"]
    );
    let mut slow = Bench::master(skew(250));
    let told = words(&slow.vhid.set_demotion(0, "x", 1));
    assert_eq!(
        told[1], "advert 1/250 demote 1",
        "demotion never makes a node faster"
    );
}

#[test]
fn three_send_errors_demote_and_three_good_sends_or_a_minute_undo_it() {
    let mut bench = Bench::master(skew(0));
    for _ in 0..2 {
        assert_eq!(words(&bench.vhid.on_send_error(0)), NOTHING);
    }
    assert_eq!(words(&bench.vhid.on_send_ok(0)), NOTHING);
    for _ in 0..2 {
        assert_eq!(words(&bench.vhid.on_send_error(0)), NOTHING);
    }
    let told = words(&bench.vhid.on_send_error(0));
    assert_eq!(
        told,
        ["demoted by 1 to 1 (send errors)", "advert 1/240 demote 1"]
    );
    let _ = bench.vhid.on_send_ok(0);
    let _ = bench.vhid.on_send_ok(0);
    let told = words(&bench.vhid.on_send_ok(0));
    assert_eq!(told, ["demoted by -1 to 0 (send errors)", "advert 1/0"]);

    // A backup sends nothing, so it could never show three good sends.
    for _ in 0..3 {
        let _ = bench.vhid.on_send_error(0);
    }
    let _ = bench.hear(1, peer(1, 0));
    assert_eq!(bench.state(), State::Backup);
    assert_eq!(bench.vhid.demotions().iter().next(), Some((SEND_ERRORS, 1)));
    for at_ms in (0..60_000).step_by(1000) {
        assert_eq!(bench.run(at_ms), NOTHING);
        let _ = bench.hear(at_ms, peer(1, 0));
    }
    assert_eq!(
        bench.run(60_000),
        ["60000 demoted by -1 to 0 (send errors)"]
    );
}

#[test]
fn new_timing_is_told_at_once_and_the_backup_waits_by_it() {
    let mut bench = Bench::master(skew(0));
    let quicker = Config {
        timing: timing(0, 64),
        ..bench.vhid.config().clone()
    };
    let _ = bench.run(500);
    assert_eq!(
        words(&bench.vhid.configure(500 * MS, quicker).unwrap()),
        ["advert 0/64"]
    );
    assert_eq!(bench.vhid.next_deadline_ns(), Some(750 * MS));

    let mut bench = Bench::backup(skew(0));
    let quicker = Config {
        timing: timing(0, 64),
        ..bench.vhid.config().clone()
    };
    assert_eq!(
        words(&bench.vhid.configure(500 * MS, quicker).unwrap()),
        NOTHING
    );
    assert_eq!(bench.vhid.next_deadline_ns(), Some(1250 * MS));
}

#[test]
fn added_address_is_announced_and_changes_the_digest() {
    let mut bench = Bench::master(skew(0));
    let second = IpAddr::from([192, 0, 2, 11]);
    let actions = bench.vhid.set_addresses(1, vec![VIRTUAL.into(), second]);
    assert_eq!(
        *actions,
        [Action::SendGratuitousArp(Ipv4Addr::new(192, 0, 2, 11))]
    );
    let _ = bench.hear(2, peer(1, 50));
    assert_eq!(bench.vhid.counters().dropped(DropReason::Authentication), 1);
}

#[test]
fn removing_the_last_address_bows_out_under_the_old_list() {
    let mut bench = Bench::master(skew(0));
    let actions = bench.vhid.set_addresses(1, Vec::new());
    let expected = [
        "advert 255/255",
        "advert 255/255",
        "advert 255/255",
        "MASTER>INIT no address left",
    ];
    assert_eq!(words(&actions), expected);
    let Action::SendAdvert(repr) = actions[0] else {
        panic!()
    };
    let ours = Peer {
        cookie: COOKIE,
        ..peer(255, 255)
    };
    assert_eq!(repr.to_bytes(), ours.bytes());
}

/// SIGSTOP of a VM, then SIGCONT: either its queued packets or its timers come first.
#[test]
fn master_that_was_frozen_reasserts_or_yields() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.run(5000);
    assert_eq!(bench.timer(13_000), ["advert 1/0", "garp"]);
    assert_eq!(bench.vhid.counters().time_jumps, 1);
    assert_eq!(
        bench.run(14_000),
        ["13010 garp", "13100 garp", "14000 advert 1/0"],
        "no burst of missed adverts"
    );

    // Queued adverts of a worse successor: we are MASTER again, and say so.
    let mut bench = Bench::master(skew(0));
    let heard = bench.hear(8000, peer(1, 100));
    assert_eq!(heard[1..], ["garp", "advert 1/0"]);
    assert_eq!(bench.hear(8000, peer(1, 100)), ["garp"]);

    // Of a better one: not a word.
    let mut bench = Bench::master(skew(100));
    let heard = bench.hear(8000, peer(1, 0));
    assert_eq!(
        heard,
        [
            "MASTER>BACKUP more frequent advertisement received",
            "farewell"
        ]
    );
    assert_eq!(bench.run(11_390), NOTHING);
}

/// Found by the simulation: 240/256 s is many times the master-down time of advbase 0.
#[test]
fn demoted_master_at_advbase_0_keeps_its_pace() {
    let mut bench = Bench::master(Config {
        timing: timing(0, 4),
        ..Config::default()
    });
    let told = words(&bench.vhid.set_demotion(0, "test", 3));
    assert_eq!(told[1], "advert 0/4 demote 3");
    assert_eq!(bench.run(16), ["10 garp", "15 advert 0/4 demote 3"]);
}

/// Found by the demonstration: after a healed partition the loser's last answers moved the virtual MAC back to its port,
/// and nobody corrected the switch for a whole interval.
#[test]
fn a_master_that_yields_says_so_and_the_better_one_announces_itself() {
    let mut loser = Bench::master(skew(100));
    let better = peer(1, 0);
    let heard = loser.hear(5000, better);
    assert_eq!(heard[1], "farewell", "after the state change: {heard:?}");
    let mut winner = Bench::master(skew(0));
    assert_eq!(winner.hear(5000, peer(1, 100))[1..], ["garp", "advert 1/0"]);
}
