//! Advertisements from a hostile segment, through `Packet::receive` and a `Vhid` with its timers.
//!
//! The first byte of the input chooses the settings and whether we begin as master. Then come records: one byte that says what
//! happens, one of time (its value in milliseconds passes), and for a packet one of length and its bytes. Digests cannot be
//! guessed, so one kind of record is put right: it gets the digest, and another the checksum, that its other bytes need.
//!
//! What must hold: no panic; a packet that fails a check is counted under one reason and changes neither state nor timers nor what
//! was sent; only a master's actions contain announcements and advertisements; a deadline that was served has moved.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use carp::wire::{LEN, Packet, TtlCheck};
use carp::{
    Action, Actions, Authenticator, Config, Link, LinkLocal, Password, Received, State, Timing,
    Vhid,
};
use libfuzzer_sys::fuzz_target;

const NUMBER: u8 = 1;
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const OWN_COOKIE: [u8; 8] = [1; 8];
const MILLISECOND_NS: u64 = 1_000_000;

fuzz_target!(|data: &[u8]| run(data));

fn vhid(choice: u8) -> Vhid {
    let timing = match choice & 3 {
        0 => Timing {
            advbase: 1,
            advskew: 0,
        },
        1 => Timing {
            advbase: 0,
            advskew: 4,
        },
        2 => Timing {
            advbase: 0,
            advskew: 0,
        },
        _ => Timing {
            advbase: 1,
            advskew: 100,
        },
    };
    let config = Config {
        timing,
        password: Password::new("secret").expect("short enough"),
        preempt: choice & 4 != 0,
        announce_refresh_ns: (choice & 8 != 0).then_some(50 * MILLISECOND_NS),
        ..Config::default()
    };
    let mut vhid = Vhid::new(NUMBER, OWN_COOKIE, config).expect("settings that are right");
    let _ = vhid.on_interface(0, Link::Up);
    let _ = vhid.on_link(0, Link::Up);
    let _ = vhid.set_source(0, Some(OWN));
    let _ = vhid.set_addresses(0, vec![VIRTUAL]);
    if choice & 16 != 0 {
        let _ = vhid.force_master(0);
    }
    vhid
}

/// What a packet that is dropped must leave as it was.
fn fingerprint(vhid: &Vhid) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        vhid.state(),
        vhid.next_deadline_ns(),
        vhid.master(),
        vhid.is_leaving(),
        vhid.demotions().total(),
        (vhid.counters().sent, vhid.counters().announcements),
    )
}

/// The digest and the checksum as far as `how` asks for them.
fn put_right(bytes: &mut [u8], how: u8) {
    if bytes.len() < LEN || how & 3 == 0 {
        return;
    }
    if how & 2 != 0 {
        let password = Password::new("secret").expect("short enough");
        let authenticator = Authenticator::new(&password, NUMBER, &[VIRTUAL], LinkLocal::LeftOut);
        let cookie: [u8; 8] = bytes[8..16].try_into().expect("eight bytes");
        bytes[16..LEN].copy_from_slice(&authenticator.digest(&cookie));
        // Version 2, type advertisement, our vhid; else the rest would hardly ever count.
        bytes[..2].copy_from_slice(&[0x21, NUMBER]);
    }
    Packet::new_unchecked(bytes).fill_checksum();
}

/// What actions may be, given the state before and after.
fn check(before: State, vhid: &Vhid, actions: &Actions) {
    for action in actions.iter() {
        match action {
            // Said on the way in, on the way out, or in between.
            Action::SendAdvert(_) | Action::SendGratuitousArp(_) => {
                assert!(before == State::Master || vhid.state() == State::Master);
            }
            Action::SendFarewell(_) => {
                assert_eq!((before, vhid.state()), (State::Master, State::Backup));
            }
            Action::StateChanged(change) => assert_ne!(change.from, change.to),
            Action::DemotionChanged(_) | Action::SplitBrain(_) => {}
        }
    }
}

fn run_timers(vhid: &mut Vhid, now_ns: u64) {
    for _ in 0..10_000 {
        let Some(due_ns) = vhid.next_deadline_ns().filter(|&due_ns| due_ns <= now_ns) else {
            return;
        };
        let before = vhid.state();
        let actions = vhid.on_timer(now_ns);
        check(before, vhid, &actions);
        assert_ne!(
            vhid.next_deadline_ns(),
            Some(due_ns),
            "a timer that stands still"
        );
    }
    panic!("timers that never catch up");
}

fn receive(vhid: &mut Vhid, now_ns: u64, how: u8, bytes: &[u8]) {
    let source = if how & 0x10 == 0 {
        Ipv4Addr::new(192, 0, 2, 6)
    } else {
        OWN
    };
    let ttl = if how & 0x20 == 0 { 255 } else { how };
    let (before, state) = (fingerprint(vhid), vhid.state());
    let (received, dropped) = (vhid.counters().received, vhid.counters().dropped_total());
    let actions = vhid.on_packet(
        now_ns,
        &Received {
            source,
            ttl,
            payload: bytes,
        },
    );
    check(state, vhid, &actions);
    assert_eq!(vhid.counters().received, received + 1);
    let reason = actions.dropped();
    assert_eq!(
        vhid.counters().dropped_total(),
        dropped + u64::from(reason.is_some())
    );
    if let Some(reason) = reason {
        assert_eq!(fingerprint(vhid), before, "{reason}");
        assert!(
            actions
                .iter()
                .all(|action| matches!(action, Action::SplitBrain(_)))
        );
    } else {
        assert!(Packet::receive(bytes, ttl, TtlCheck::Required).is_ok());
    }
}

fn run(data: &[u8]) {
    let Some((&choice, mut data)) = data.split_first() else {
        return;
    };
    let mut vhid = vhid(choice);
    let mut now_ns = 0;
    while let [what, pause, rest @ ..] = data {
        data = rest;
        now_ns += u64::from(*pause) * MILLISECOND_NS;
        run_timers(&mut vhid, now_ns);
        let before = vhid.state();
        let actions = match what >> 6 {
            0 => match what & 7 {
                0 => vhid.on_link(now_ns, Link::Down),
                1 => vhid.on_link(now_ns, Link::Up),
                2 => vhid.force_master(now_ns),
                3 => vhid.force_backup(now_ns),
                4 => vhid.stop(now_ns),
                5 => vhid.start(now_ns),
                6 => vhid.on_send_error(now_ns),
                _ => vhid.set_demotion(now_ns, "fuzz", *pause),
            },
            _ => {
                let Some((&length, rest)) = data.split_first() else {
                    return;
                };
                let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
                data = rest;
                let mut bytes = bytes.to_vec();
                put_right(&mut bytes, *what);
                receive(&mut vhid, now_ns, *what, &bytes);
                continue;
            }
        };
        check(before, &vhid, &actions);
    }
}
