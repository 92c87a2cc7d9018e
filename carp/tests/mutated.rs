//! A million mutated advertisements through parse, verify and a [`Vhid`].
//!
//! The property: whatever fails a check is counted under exactly one reason and changes neither
//! state nor timers. Timing and demotion are outside the HMAC, so a mutation there with the
//! checksum put right is a *valid* packet by the protocol; those may move the machine.

use std::net::{IpAddr, Ipv4Addr};

use carp::wire::{LEN, Packet, Repr};
use carp::{
    Action, Authenticator, Config, DropReason, Link, LinkLocal, Password, Received, State, Timing,
    Vhid,
};
use common::Random;

mod common;

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 6);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const COOKIE: [u8; 8] = [1; 8];
const PACKETS: u64 = 1_000_000;

fn vhid(is_master: bool) -> Vhid {
    let password = Password::new("secret").unwrap();
    let config = Config {
        password,
        preempt: true,
        ..Config::default()
    };
    let mut vhid = Vhid::new(1, COOKIE, config).unwrap();
    let _ = vhid.on_interface(0, Link::Up);
    let _ = vhid.on_link(0, Link::Up);
    let _ = vhid.set_source(0, Some(OWN));
    let _ = vhid.set_addresses(0, vec![IpAddr::from([192, 0, 2, 10])]);
    if is_master {
        let _ = vhid.force_master(0);
    }
    vhid
}

fn advert(cookie: [u8; 8], timing: Timing) -> [u8; LEN] {
    let password = Password::new("secret").unwrap();
    let addresses = [IpAddr::from([192, 0, 2, 10])];
    let auth = Authenticator::new(&password, 1, &addresses, LinkLocal::LeftOut);
    let digest = auth.digest(&cookie);
    Repr {
        vhid: 1,
        timing,
        demotion: 0,
        cookie,
        digest,
    }
    .to_bytes()
}

/// What the machine would show if a packet had changed it.
fn fingerprint(vhid: &Vhid) -> (State, Option<u64>, Option<Ipv4Addr>, u8, u64) {
    let deadline = vhid.next_deadline_ns();
    (
        vhid.state(),
        deadline,
        vhid.master(),
        vhid.demotions().total(),
        vhid.counters().sent,
    )
}

#[test]
fn a_million_mutated_adverts_are_counted_by_reason_and_move_nothing_unless_valid() {
    let mut random = Random::new(0x0ca2);
    let seeds = [
        advert(
            [9; 8],
            Timing {
                advbase: 1,
                advskew: 0,
            },
        ),
        advert([9; 8], Timing::BOW_OUT),
        advert(
            COOKIE,
            Timing {
                advbase: 0,
                advskew: 1,
            },
        ),
    ];
    let mut vhids = [vhid(false), vhid(true)];
    let mut seen = [0_u64; DropReason::ALL.len()];
    let mut accepted = 0_u64;
    for index in 0..PACKETS {
        let now_ns = index * 1000;
        let mut bytes = [0; 48];
        let seed = &seeds[random.below(3) as usize];
        bytes[..LEN].copy_from_slice(seed);
        let mut len = LEN;
        let mut ttl = 255;
        for _ in 0..=random.below(3) {
            match random.below(8) {
                0 => len = random.below(49) as usize,
                1 => ttl = random.next() as u8,
                2 => bytes[random.below(6) as usize] = random.next() as u8,
                3 => bytes[8..LEN].fill(random.next() as u8),
                _ => bytes[random.below(LEN as u64) as usize] ^= 1 << random.below(8),
            }
        }
        if random.chance(40) {
            Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        }
        let source = if random.chance(5) { OWN } else { PEER };
        let vhid = &mut vhids[random.below(2) as usize];
        let before = fingerprint(vhid);
        let dropped_before = vhid.counters().dropped_total();
        let actions = vhid.on_packet(
            now_ns,
            &Received {
                source,
                ttl,
                payload: &bytes[..len],
            },
        );
        match actions.dropped() {
            Some(reason) => {
                seen[reason as usize] += 1;
                assert_eq!(fingerprint(vhid), before, "{reason} {:02x?}", &bytes[..len]);
                assert_eq!(vhid.counters().dropped_total(), dropped_before + 1);
                assert!(
                    actions
                        .iter()
                        .all(|action| matches!(action, Action::SplitBrain(_)))
                );
            }
            None => accepted += 1,
        }
    }
    let received: u64 = vhids.iter().map(|vhid| vhid.counters().received).sum();
    let dropped: u64 = vhids
        .iter()
        .map(|vhid| vhid.counters().dropped_total())
        .sum();
    assert_eq!((received, dropped + accepted), (PACKETS, PACKETS));
    for reason in DropReason::ALL {
        let counted: u64 = vhids
            .iter()
            .map(|vhid| vhid.counters().dropped(reason))
            .sum();
        assert_eq!(counted, seen[reason as usize], "{reason}");
        // Both run, so nothing is dropped for the interface; every other check was reached.
        assert_eq!(
            counted == 0,
            reason == DropReason::Interface,
            "{reason}: {counted}"
        );
    }
    assert!(
        accepted > 1000,
        "{accepted}: the mutations leave some valid"
    );
}

#[test]
fn random_bytes_of_every_length_do_not_panic() {
    let mut random = Random::new(7);
    let mut vhid = vhid(false);
    let before = fingerprint(&vhid);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
        if bytes.len() >= LEN && random.chance(50) {
            bytes[0] = 0x21;
            bytes[1] = 1;
            Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        }
        let received = Received {
            source: PEER,
            ttl: 255,
            payload: &bytes,
        };
        assert!(vhid.on_packet(0, &received).dropped().is_some());
    }
    assert_eq!(fingerprint(&vhid), before);
}
