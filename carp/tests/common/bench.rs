//! One vhid at virtual milliseconds.
//!
//! [`Bench`] holds a vhid with the real address 192.0.2.5 and the virtual address 192.0.2.10; its
//! methods feed an input at a millisecond and return what happened as short words, so that a test
//! reads as a table: `advert 1/0`, `garp`, `BACKUP>MASTER master timed out`.

use std::net::{IpAddr, Ipv4Addr};

use carp::wire::Repr;
use carp::{
    Action, Actions, Authenticator, Config, Link, LinkLocal, Password, Received, State, Timing,
    Vhid,
};

pub const MS: u64 = 1_000_000;
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
pub const LOWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
pub const HIGHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 6);
pub const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const COOKIE: [u8; 8] = *b"ourcooki";

pub fn timing(advbase: u8, advskew: u8) -> Timing {
    Timing { advbase, advskew }
}

/// What a peer sends: 1/100, not demoted, right password, unless changed.
#[derive(Clone, Copy)]
pub struct Peer {
    pub source: Ipv4Addr,
    pub timing: Timing,
    pub demotion: u8,
    pub cookie: [u8; 8],
}

pub fn peer(advbase: u8, advskew: u8) -> Peer {
    Peer {
        source: HIGHER,
        timing: timing(advbase, advskew),
        demotion: 0,
        cookie: *b"peercook",
    }
}

impl Peer {
    pub fn bytes(&self) -> [u8; 36] {
        let password = Password::new("secret").unwrap();
        let addresses = [IpAddr::V4(VIRTUAL)];
        let auth = Authenticator::new(&password, 1, &addresses, LinkLocal::LeftOut);
        let digest = auth.digest(&self.cookie);
        let Peer {
            timing,
            demotion,
            cookie,
            ..
        } = *self;
        Repr {
            vhid: 1,
            timing,
            demotion,
            cookie,
            digest,
        }
        .to_bytes()
    }
}

pub struct Bench {
    pub vhid: Vhid,
}

impl Bench {
    pub fn init(config: Config) -> Self {
        let config = Config {
            password: Password::new("secret").unwrap(),
            ..config
        };
        Self {
            vhid: Vhid::new(1, COOKIE, config).unwrap(),
        }
    }

    /// In BACKUP since 0 ms.
    pub fn backup(config: Config) -> Self {
        let mut bench = Self::init(config);
        let _ = bench.vhid.on_interface(0, Link::Up);
        let _ = bench.vhid.on_link(0, Link::Up);
        let _ = bench.vhid.set_source(0, Some(OWN));
        let _ = bench.vhid.set_addresses(0, vec![VIRTUAL.into()]);
        assert_eq!(bench.vhid.state(), State::Backup);
        bench
    }

    /// MASTER since 0 ms.
    pub fn master(config: Config) -> Self {
        let mut bench = Self::backup(config);
        let _ = bench.vhid.force_master(0);
        assert_eq!(bench.vhid.state(), State::Master);
        bench
    }

    pub fn hear(&mut self, at_ms: u64, peer: Peer) -> Vec<String> {
        let bytes = peer.bytes();
        let received = Received {
            source: peer.source,
            ttl: 255,
            payload: &bytes,
        };
        words(&self.vhid.on_packet(at_ms * MS, &received))
    }

    pub fn timer(&mut self, at_ms: u64) -> Vec<String> {
        words(&self.vhid.on_timer(at_ms * MS))
    }

    /// Runs all timers up to and including `until_ms`, at their time; what happened with when.
    pub fn run(&mut self, until_ms: u64) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(at_ns) = self
            .vhid
            .next_deadline_ns()
            .filter(|at| *at <= until_ms * MS)
        {
            let actions = self.vhid.on_timer(at_ns);
            log.extend(
                words(&actions)
                    .iter()
                    .map(|word| format!("{} {word}", at_ns / MS)),
            );
        }
        log
    }

    pub fn state(&self) -> State {
        self.vhid.state()
    }
}

pub fn words(actions: &Actions) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::SendAdvert(repr) => {
            let Timing { advbase, advskew } = repr.timing;
            match repr.demotion {
                0 => format!("advert {advbase}/{advskew}"),
                demotion => format!("advert {advbase}/{advskew} demote {demotion}"),
            }
        }
        Action::SendFarewell(_) => "farewell".into(),
        Action::SendGratuitousArp(_) => "garp".into(),
        Action::StateChanged(c) => format!("{}>{} {}", c.from, c.to, c.reason),
        Action::DemotionChanged(change) => change.to_string(),
        Action::SplitBrain(report) => format!("split: {report}"),
    };
    actions.iter().map(word).collect()
}

pub const NOTHING: [&str; 0] = [];

pub fn skew(advskew: u8) -> Config {
    Config {
        timing: timing(1, advskew),
        ..Config::default()
    }
}

pub fn preempting(advskew: u8) -> Config {
    Config {
        preempt: true,
        ..skew(advskew)
    }
}

/// An input as a table can hold it.
pub type Input = fn(&mut Vhid) -> Actions;
