//! What is dropped or only warned about: counted by reason, and nothing else changes.

use std::net::Ipv4Addr;

use carp::wire::{Packet, virtual_mac};
use carp::{Action, DropReason, Received};
use common::bench::*;

mod common;

#[test]
fn what_fails_a_check_is_counted_by_reason_and_changes_nothing() {
    let good = peer(255, 255).bytes();
    let edit = |index: usize, value: u8| {
        let mut bytes = good;
        bytes[index] = value;
        Packet::new_unchecked(&mut bytes).fill_checksum();
        bytes
    };
    let own_cookie = Peer {
        cookie: COOKIE,
        ..peer(255, 255)
    }
    .bytes();
    let mut bad_sum = good;
    bad_sum[6] ^= 1;
    let table: [(&[u8], u8, Ipv4Addr, DropReason); 8] = [
        (&good, 254, HIGHER, DropReason::Ttl),
        (&good[..35], 255, HIGHER, DropReason::Length),
        (&bad_sum, 255, HIGHER, DropReason::Checksum),
        (&edit(1, 2), 255, HIGHER, DropReason::Vhid),
        (&edit(0, 0x31), 255, HIGHER, DropReason::Version),
        (&edit(30, 0), 255, HIGHER, DropReason::Authentication),
        (&own_cookie, 255, HIGHER, DropReason::Loop),
        (&good, 255, OWN, DropReason::OwnAddress),
    ];
    for (payload, ttl, source, reason) in table {
        for mut bench in [Bench::backup(preempting(0)), Bench::master(skew(0))] {
            let before = (bench.state(), bench.vhid.next_deadline_ns());
            let actions = bench.vhid.on_packet(
                MS,
                &Received {
                    source,
                    ttl,
                    payload,
                },
            );
            assert_eq!(actions.dropped(), Some(reason));
            assert_eq!(
                (bench.state(), bench.vhid.next_deadline_ns()),
                before,
                "{reason}"
            );
            let counters = bench.vhid.counters();
            assert_eq!(
                (counters.dropped(reason), counters.dropped_total()),
                (1, 1),
                "{reason}"
            );
            assert!(
                actions
                    .iter()
                    .all(|action| matches!(action, Action::SplitBrain(_)))
            );
        }
    }
}

#[test]
fn bad_authentication_is_reported_with_its_source_but_not_each_time() {
    let mut bench = Bench::backup(skew(0));
    let mut bytes = peer(1, 0).bytes();
    bytes[30] ^= 1;
    Packet::new_unchecked(&mut bytes).fill_checksum();
    let received = Received {
        source: HIGHER,
        ttl: 255,
        payload: &bytes,
    };
    let first = words(&bench.vhid.on_packet(MS, &received));
    assert!(
        first[0].starts_with("split: incorrect hash from 192.0.2.6"),
        "{first:?}"
    );
    assert_eq!(words(&bench.vhid.on_packet(2 * MS, &received)), NOTHING);
    assert_eq!(bench.vhid.counters().split_brain, 2);
}

#[test]
fn only_a_settled_master_minds_arp_from_its_address() {
    let stranger = [2, 0, 0, 0, 0, 9];
    let mut bench = Bench::backup(skew(0));
    assert_eq!(words(&bench.vhid.on_arp(MS, VIRTUAL, stranger)), NOTHING);
    let _ = bench.vhid.force_master(2 * MS);
    assert_eq!(
        words(&bench.vhid.on_arp(3 * MS, VIRTUAL, stranger)),
        NOTHING
    );
    let _ = bench.run(2000);
    assert_eq!(
        words(&bench.vhid.on_arp(2000 * MS, HIGHER, stranger)),
        NOTHING
    );
    assert_eq!(
        words(&bench.vhid.on_arp(2000 * MS, VIRTUAL, stranger)),
        ["split: 192.0.2.10 is also claimed by 02:00:00:00:00:09"]
    );
    assert_eq!(
        words(&bench.vhid.on_arp(2000 * MS, VIRTUAL, virtual_mac(1))),
        ["split: 192.0.2.10 is also claimed by another master"]
    );
    assert_eq!(bench.vhid.counters().split_brain, 2);
}
