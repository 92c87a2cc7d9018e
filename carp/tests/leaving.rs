//! Handing over and stopping: bow-outs, and for how long the address stays.

use carp::{Link, State};
use common::bench::*;

mod common;

#[test]
fn stop_bows_out_three_times_and_keeps_the_address_until_the_last() {
    let mut bench = Bench::master(skew(0));
    assert_eq!(words(&bench.vhid.stop(100 * MS)), ["advert 255/255"]);
    assert_eq!(bench.state(), State::Master);
    assert_eq!(
        bench.run(10_000),
        [
            "120 advert 255/255",
            "140 advert 255/255",
            "140 MASTER>INIT orderly stop"
        ]
    );
    assert_eq!(bench.vhid.counters().bow_outs_sent, 3);
    let started = words(&bench.vhid.start(11_000 * MS));
    assert_eq!(started, ["INIT>BACKUP initialization complete"]);
}

#[test]
fn leaving_ends_as_soon_as_the_successor_is_heard() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.stop(100 * MS);
    assert_eq!(
        bench.hear(102, peer(1, 100)),
        [
            "advert 255/255",
            "advert 255/255",
            "MASTER>INIT orderly stop"
        ]
    );
}

#[test]
fn forced_backup_stays_for_one_master_down_time_even_with_preempt() {
    let mut bench = Bench::master(preempting(0));
    assert_eq!(words(&bench.vhid.force_backup(0)), ["advert 255/255"]);
    let heard = bench.hear(2, peer(1, 100));
    assert_eq!(heard[2], "MASTER>BACKUP user requested via ifconfig");
    for at_ms in [1002, 2002, 3001] {
        assert_eq!(bench.hear(at_ms, peer(1, 100)), NOTHING);
    }
    assert_eq!(
        bench.hear(3002, peer(1, 100))[0],
        "BACKUP>MASTER preempting a slower master"
    );
}

#[test]
fn forced_backup_comes_back_by_itself_when_nobody_takes_over() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.force_backup(0);
    let log = bench.run(3040);
    assert_eq!(log[2], "40 MASTER>BACKUP user requested via ifconfig");
    assert_eq!(log[3], "3040 BACKUP>MASTER master timed out");
}

#[test]
fn a_departure_can_be_called_off() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.force_backup(0);
    assert_eq!(
        words(&bench.vhid.force_master(5 * MS)),
        ["advert 1/0", "garp"]
    );
    let _ = bench.vhid.stop(10 * MS);
    assert_eq!(
        words(&bench.vhid.force_master(15 * MS)),
        NOTHING,
        "stopped means stopped"
    );
    assert_eq!(words(&bench.vhid.start(15 * MS)), ["advert 1/0", "garp"]);
    assert_eq!(bench.run(1999), ["25 garp", "115 garp", "1015 advert 1/0"]);
    assert_eq!(bench.state(), State::Master);
}

#[test]
fn link_lost_while_leaving_ends_it() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.stop(0);
    let lost = words(&bench.vhid.on_link(MS, Link::Down));
    assert_eq!(lost, ["MASTER>INIT hardware interface down"]);
}

#[test]
fn stopping_a_backup_says_nothing_on_the_wire() {
    let mut bench = Bench::backup(skew(0));
    assert_eq!(words(&bench.vhid.stop(0)), ["BACKUP>INIT orderly stop"]);
    assert_eq!(words(&bench.vhid.force_backup(0)), NOTHING);
}

#[test]
fn other_inputs_do_not_cut_a_departure_short() {
    let mut bench = Bench::master(skew(0));
    let _ = bench.vhid.stop(0);
    assert_eq!(words(&bench.vhid.on_link(MS, Link::Up)), NOTHING);
    assert_eq!(words(&bench.vhid.set_source(2 * MS, Some(OWN))), NOTHING);
    assert_eq!(bench.state(), State::Master);
    assert_eq!(bench.run(1000).len(), 3);
    assert_eq!(bench.state(), State::Init);
}
