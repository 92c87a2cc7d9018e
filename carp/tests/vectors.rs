//! Digests and packets of others: computed vectors, and adverts captured from ucarp 1.5.2.
//!
//! `vectors/vectors-computed.json` was computed apart from this code; the pcaps were captured on
//! a segment with two ucarp hosts, 10.99.0.1 and 10.99.0.2 (vhid 42, password `test123`, virtual
//! address 10.99.0.100).

use std::net::{IpAddr, Ipv4Addr};

use carp::auth::hashed_prefix;
use carp::wire::{self, Packet, Repr, TtlCheck};
use carp::{Authenticator, Config, DropReason, Link, LinkLocal, Password, Received, State, Timing};
use carp::{Reason, Vhid};

struct Vector {
    name: String,
    password: Password,
    repr: Repr,
    addresses: Vec<IpAddr>,
    message: String,
    payload: String,
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("vectors/vectors-computed.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let read = |v: &serde_json::Value| {
        let text = |key: &str| v[key].as_str().unwrap().to_string();
        let number = |key: &str| u8::try_from(v[key].as_u64().unwrap()).unwrap();
        Vector {
            name: text("name"),
            password: Password::new(&text("password")).unwrap(),
            repr: Repr {
                vhid: number("vhid"),
                timing: Timing {
                    advbase: number("advbase"),
                    advskew: number("advskew"),
                },
                demotion: number("demote"),
                cookie: unhex(&text("counter")).try_into().unwrap(),
                digest: unhex(&text("digest")).try_into().unwrap(),
            },
            addresses: v["vips"]
                .as_array()
                .unwrap()
                .iter()
                .map(|address| address.as_str().unwrap().parse().unwrap())
                .collect(),
            message: text("hmac_message"),
            payload: text("payload"),
        }
    };
    json.as_array().unwrap().iter().map(read).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn computed_vectors_are_reproduced_byte_for_byte() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 7);
    for Vector {
        name,
        password,
        repr,
        addresses,
        message,
        payload,
    } in vectors
    {
        let prefix = hashed_prefix(repr.vhid, &addresses, LinkLocal::Included);
        assert_eq!(hex(&prefix) + &hex(&repr.cookie), message, "{name}");

        let auth = Authenticator::new(&password, repr.vhid, &addresses, LinkLocal::Included);
        let digest = auth.digest(&repr.cookie);
        assert_eq!(hex(&digest), hex(&repr.digest), "{name}");
        assert_eq!(hex(&Repr { digest, ..repr }.to_bytes()), payload, "{name}");

        let bytes = unhex(&payload);
        let packet = Packet::receive(&bytes[..], 255, TtlCheck::Required).unwrap();
        assert_eq!(Repr::parse(&packet), Ok(repr), "{name}");
    }
}

/// OpenBSD sends the form without and accepts both; so must we, whichever we send.
#[test]
fn link_local_is_left_out_when_sending_and_both_forms_are_accepted() {
    let vector = vectors()
        .into_iter()
        .find(|v| v.name == "v4-v6-linklocal-included")
        .unwrap();
    let cookie = vector.repr.cookie;
    // HMAC-SHA1("sesame", 02 01 07, 10.99.0.107, 2001:db8::100, cookie), by Python's hmac.
    let without: [u8; 20] = unhex(WITHOUT_LINK_LOCAL).try_into().unwrap();
    let auth = |send| Authenticator::new(&vector.password, 7, &vector.addresses, send);
    assert_eq!(auth(LinkLocal::LeftOut).digest(&cookie), without);
    assert_eq!(
        auth(LinkLocal::Included).digest(&cookie),
        vector.repr.digest
    );
    for send in [LinkLocal::LeftOut, LinkLocal::Included] {
        assert!(auth(send).verify(&cookie, &without));
        assert!(auth(send).verify(&cookie, &vector.repr.digest));
        assert!(!auth(send).verify(&cookie, &[0; 20]));
    }
}

#[test]
fn digest_does_not_depend_on_order_or_repetition_of_addresses() {
    let mut random = common::Random::new(1);
    let password = Password::new("test123").unwrap();
    for _ in 0..200 {
        let count = random.below(6) as usize;
        let mut addresses: Vec<IpAddr> = (0..count)
            .map(|_| match random.below(3) {
                0 => IpAddr::from((random.next() as u32).to_be_bytes()),
                1 => IpAddr::from((u128::from(random.next()) << 64).to_be_bytes()),
                _ => IpAddr::from((0xfe80 << 112 | u128::from(random.next())).to_be_bytes()),
            })
            .collect();
        for send in [LinkLocal::LeftOut, LinkLocal::Included] {
            let before = Authenticator::new(&password, 1, &addresses, send).digest(&[7; 8]);
            for _ in 0..4 {
                random.shuffle(&mut addresses);
                let mut repeated = addresses.clone();
                repeated.extend(addresses.first());
                let after = Authenticator::new(&password, 1, &repeated, send).digest(&[7; 8]);
                assert_eq!(before, after, "{addresses:?}");
            }
        }
    }
}

#[test]
fn digest_depends_on_password_vhid_address_and_cookie() {
    let auth = |password: &str, vhid, address: &str| {
        let password = Password::new(password).unwrap();
        Authenticator::new(
            &password,
            vhid,
            &[address.parse().unwrap()],
            LinkLocal::LeftOut,
        )
    };
    let digest = auth("test123", 42, "10.99.0.100").digest(&[1; 8]);
    assert!(auth("test123", 42, "10.99.0.100").verify(&[1; 8], &digest));
    assert!(!auth("test124", 42, "10.99.0.100").verify(&[1; 8], &digest));
    assert!(!auth("", 42, "10.99.0.100").verify(&[1; 8], &digest));
    assert!(!auth("test123", 43, "10.99.0.100").verify(&[1; 8], &digest));
    assert!(!auth("test123", 42, "10.99.0.101").verify(&[1; 8], &digest));
    assert!(!auth("test123", 42, "10.99.0.100").verify(&[2; 8], &digest));
}

/// The CARP packets of a classic little-endian pcap: source, TTL, payload.
fn adverts(pcap: &[u8]) -> Vec<(Ipv4Addr, u8, Vec<u8>)> {
    assert_eq!(pcap[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    let mut adverts = Vec::new();
    let mut rest = &pcap[24..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let frame = &rest[16..16 + len];
        if frame[12..14] == [0x08, 0x00] && frame[23] == wire::PROTOCOL {
            let source: [u8; 4] = frame[26..30].try_into().unwrap();
            adverts.push((source.into(), frame[22], frame[34..].to_vec()));
        }
        rest = &rest[16 + len..];
    }
    adverts
}

const UCARP_START: &[u8] = include_bytes!("vectors/ucarp-start.pcap");
const UCARP_PREEMPT: &[u8] = include_bytes!("vectors/ucarp-preempt.pcap");
const WITHOUT_LINK_LOCAL: &str = "af6d5a6bd77fbd588c84cd9888827d5cb74ef419";

fn ucarp_peer(timing: Timing, preempt: bool) -> Vhid {
    let password = Password::new("test123").unwrap();
    let config = Config {
        timing,
        password,
        preempt,
        ..Config::default()
    };
    let mut vhid = Vhid::new(42, [9; 8], config).unwrap();
    let _ = vhid.on_interface(0, Link::Up);
    let _ = vhid.on_link(0, Link::Up);
    let _ = vhid.set_source(0, Some(Ipv4Addr::new(10, 99, 0, 3)));
    let _ = vhid.set_addresses(0, vec![IpAddr::from([10, 99, 0, 100])]);
    vhid
}

#[test]
fn every_captured_ucarp_advert_verifies() {
    let auth = Authenticator::new(
        &Password::new("test123").unwrap(),
        42,
        &[IpAddr::from([10, 99, 0, 100])],
        LinkLocal::LeftOut,
    );
    for (pcap, count) in [(UCARP_START, 6), (UCARP_PREEMPT, 10)] {
        let adverts = adverts(pcap);
        assert_eq!(adverts.len(), count);
        for (_, ttl, payload) in adverts {
            let packet = Packet::receive(&payload[..], ttl, TtlCheck::Required).unwrap();
            let repr = Repr::parse(&packet).unwrap();
            assert!(auth.verify(&repr.cookie, &repr.digest), "{repr}");
            assert_eq!(
                repr.to_bytes()[..],
                payload[..],
                "what we emit is what ucarp sent"
            );
        }
    }
}

#[test]
fn backup_follows_captured_ucarp_masters_and_preempts_the_slower_one() {
    let slow = Timing {
        advbase: 1,
        advskew: 200,
    };
    let mut follower = ucarp_peer(slow, true);
    for (source, ttl, payload) in adverts(UCARP_START) {
        let received = Received {
            source,
            ttl,
            payload: &payload,
        };
        assert_eq!(follower.on_packet(0, &received).dropped(), None);
        assert_eq!(
            (follower.state(), follower.master()),
            (State::Backup, Some(source))
        );
    }
    let mut other_password = ucarp_peer(slow, true);
    let changed = Config {
        password: Password::new("wrong").unwrap(),
        ..Config::default()
    };
    let _ = other_password.configure(0, changed).unwrap();
    for (source, ttl, payload) in adverts(UCARP_START) {
        let dropped = other_password.on_packet(
            0,
            &Received {
                source,
                ttl,
                payload: &payload,
            },
        );
        assert_eq!(dropped.dropped(), Some(DropReason::Authentication));
    }

    let mut faster = ucarp_peer(
        Timing {
            advbase: 1,
            advskew: 50,
        },
        true,
    );
    let (source, ttl, payload) = adverts(UCARP_PREEMPT).remove(0);
    let actions = faster.on_packet(
        0,
        &Received {
            source,
            ttl,
            payload: &payload,
        },
    );
    let carp::Action::StateChanged(change) = actions[0] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (change.to, change.reason),
        (State::Master, Reason::PreemptingSlowerMaster)
    );
}

mod common;
