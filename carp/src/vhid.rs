//! One virtual host: the state machine INIT, BACKUP, MASTER, without I/O and without a clock.
//!
//! [`Vhid`] takes inputs (advertisements in `vhid/receive.rs`; links, addresses, settings and
//! the operator's wishes here; the timer) and returns [`Actions`]. How states are entered is in
//! `vhid/transitions.rs`, what a MASTER does, and how it leaves, in `vhid/master.rs`. The phase of the machine is an enum with data, so a BACKUP has
//! no advertisement timer that somebody could forget to stop: being silent is not a rule that the
//! code follows but a thing it cannot break.
//!
//! Source: FreeBSD and OpenBSD `sys/netinet/ip_carp.c`; the differences are decided in
//! `docs/decisions/carp-*.md`.

mod master;
mod receive;
mod transitions;

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::num::NonZeroU8;

use crate::action::{Actions, Reason, State};
use crate::auth::Authenticator;
use crate::config::{Config, ConfigError};
use crate::counters::Counters;
use crate::demotion::{DEMOTED_SKEW, Demotions, SEND_ERRORS, SendHealth};
use crate::split_brain::Reporter;
use crate::timers::{Rank, Timing};
use crate::wire::COOKIE_LEN;
use master::Master;
pub use receive::Received;

/// Whether a link or an interface can carry frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Link {
    /// It cannot.
    #[default]
    Down,
    /// It can.
    Up,
}

/// A virtual host.
///
/// Having one tells you: its settings passed [`Config::check`]; it is MASTER only while link and
/// interface are up, an address is there and it was not stopped.
#[derive(Debug)]
pub struct Vhid {
    number: NonZeroU8,
    /// Random per boot; an advertisement that carries it is our own.
    cookie: [u8; COOKIE_LEN],
    config: Config,
    addresses: Vec<IpAddr>,
    /// Follows `config.password`, `config.link_local` and `addresses`.
    authenticator: Authenticator,
    source: Option<Ipv4Addr>,
    link: Link,
    interface: Link,
    is_stopped: bool,
    phase: Phase,
    demotions: Demotions,
    send_health: SendHealth,
    /// A live master is left alone until then (preempt delay; forced BACKUP).
    preempt_not_before_ns: u64,
    reporter: Reporter,
    counters: Counters,
}

#[derive(Debug)]
enum Phase {
    Init,
    Backup(Backup),
    Master(Master),
}

#[derive(Debug)]
struct Backup {
    down_at_ns: u64,
    /// Whom we heard last, and how good it is; only its bow-out counts.
    master: Option<(Ipv4Addr, Rank)>,
    /// The one extra wait after a time jump is used up.
    late_forgiven: bool,
}

/// Construction, settings and what can be asked.
impl Vhid {
    /// A vhid in INIT: everything down, no address. `cookie` is 8 random bytes, new each boot.
    pub fn new(number: u8, cookie: [u8; COOKIE_LEN], config: Config) -> Result<Self, ConfigError> {
        let number = NonZeroU8::new(number).ok_or(ConfigError::Vhid)?;
        config.check()?;
        let authenticator =
            Authenticator::new(&config.password, number.get(), &[], config.link_local);
        Ok(Self {
            number,
            cookie,
            config,
            addresses: Vec::new(),
            authenticator,
            source: None,
            link: Link::Down,
            interface: Link::Down,
            is_stopped: false,
            phase: Phase::Init,
            demotions: Demotions::default(),
            send_health: SendHealth::default(),
            preempt_not_before_ns: 0,
            reporter: Reporter::default(),
            counters: Counters::default(),
        })
    }

    /// The virtual host id.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number.get()
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Init => State::Init,
            Phase::Backup(_) => State::Backup,
            Phase::Master(_) => State::Master,
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The virtual addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The real address advertisements are sent from.
    #[must_use]
    pub fn source(&self) -> Option<Ipv4Addr> {
        self.source
    }

    /// The demotion reasons in force.
    #[must_use]
    pub fn demotions(&self) -> &Demotions {
        &self.demotions
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// While BACKUP: the master, if one was heard.
    #[must_use]
    pub fn master(&self) -> Option<Ipv4Addr> {
        match &self.phase {
            Phase::Backup(backup) => backup.master.map(|(address, _)| address),
            _ => None,
        }
    }

    /// Whether it is MASTER but has begun to bow out.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(&self.phase, Phase::Master(master) if master.is_leaving())
    }

    /// What we advertise: the configured timing, slowed to skew 240 while demoted.
    ///
    /// Not so at advbase 0: 240/256 s is many times the master-down time there, so a demoted
    /// master with a demoted backup would be timed out for ever. Only peers that know the
    /// demotion count can work at advbase 0, so nothing is lost.
    #[must_use]
    pub fn effective_timing(&self) -> Timing {
        let mut timing = self.config.timing;
        if self.demotions.total() > 0 && timing.advbase > 0 {
            timing.advskew = timing.advskew.max(DEMOTED_SKEW);
        }
        timing
    }

    /// When to call [`Vhid::on_timer`]; ask again after every input.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let phase = match &self.phase {
            Phase::Init => None,
            Phase::Backup(backup) => Some(backup.down_at_ns),
            Phase::Master(master) => Some(master.next_deadline_ns()),
        };
        [phase, self.send_health.expires_at_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    fn rank(&self) -> Rank {
        Rank {
            demotion: self.demotions.total(),
            timing_units: self.effective_timing().units(),
        }
    }

    fn authenticate_with(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        self.authenticator = Authenticator::new(
            &self.config.password,
            self.number.get(),
            &self.addresses,
            self.config.link_local,
        );
    }
}

/// Inputs other than advertisements.
impl Vhid {
    /// The time of [`Vhid::next_deadline_ns`] has come. Too early or too often does no harm.
    pub fn on_timer(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        if let Some(weight) = self.send_health.on_timer(now_ns) {
            self.demote(now_ns, SEND_ERRORS, weight, &mut actions);
        }
        match &self.phase {
            Phase::Init => {}
            Phase::Backup(backup) if now_ns >= backup.down_at_ns => {
                self.on_master_down(now_ns, &mut actions);
            }
            Phase::Backup(_) => {}
            Phase::Master(_) => self.on_master_timer(now_ns, &mut actions),
        }
        actions
    }

    /// The carrier came or went.
    pub fn on_link(&mut self, now_ns: u64, link: Link) -> Actions {
        self.link = link;
        self.after_bounce(now_ns, link)
    }

    /// The parent interface was taken up, or was taken down under us. For an orderly
    /// `ifconfig carp0 down` use [`Vhid::stop`], which bows out first.
    pub fn on_interface(&mut self, now_ns: u64, interface: Link) -> Actions {
        self.interface = interface;
        self.after_bounce(now_ns, interface)
    }

    fn after_bounce(&mut self, now_ns: u64, link: Link) -> Actions {
        let mut actions = Actions::default();
        if link == Link::Up && self.send_health.expires_at_ns().is_some() {
            let weight = self.send_health.reset();
            self.demote(now_ns, SEND_ERRORS, weight, &mut actions);
        }
        self.evaluate(now_ns, &mut actions);
        actions
    }

    /// The real address to send from changed (`None`: there is none).
    pub fn set_source(&mut self, now_ns: u64, source: Option<Ipv4Addr>) -> Actions {
        let mut actions = Actions::default();
        self.source = source;
        self.evaluate(now_ns, &mut actions);
        actions
    }

    /// The whole list of virtual addresses changed, in one step: nodes with different lists
    /// reject each other, so no intermediate list should ever reach the wire.
    pub fn set_addresses(&mut self, now_ns: u64, addresses: Vec<IpAddr>) -> Actions {
        let mut actions = Actions::default();
        if addresses.is_empty() && self.state() == State::Master {
            // Said under the old list, the one our peers have.
            self.bow_out_at_once(&mut actions);
        }
        let before = core::mem::take(&mut self.addresses);
        self.authenticate_with(addresses);
        self.evaluate(now_ns, &mut actions);
        self.announce_new(&before, &mut actions);
        actions
    }

    /// New settings. A MASTER tells its new timing at once; a BACKUP waits anew by it.
    pub fn configure(&mut self, now_ns: u64, config: Config) -> Result<Actions, ConfigError> {
        config.check()?;
        let mut actions = Actions::default();
        let is_retimed = config.timing != self.config.timing;
        self.config = config;
        let addresses = core::mem::take(&mut self.addresses);
        self.authenticate_with(addresses);
        if is_retimed {
            let down_at_ns = self.down_at_ns(now_ns);
            if let Phase::Backup(backup) = &mut self.phase {
                backup.down_at_ns = down_at_ns;
            }
            self.readvertise(now_ns, &mut actions);
        }
        Ok(actions)
    }

    /// Sets a named reason to be demoted (weight 0 clears it).
    pub fn set_demotion(&mut self, now_ns: u64, name: &str, weight: u8) -> Actions {
        let mut actions = Actions::default();
        self.demote(now_ns, name, weight, &mut actions);
        actions
    }

    /// Clears a named reason.
    pub fn clear_demotion(&mut self, now_ns: u64, name: &str) -> Actions {
        self.set_demotion(now_ns, name, 0)
    }

    /// An advertisement went out.
    pub fn on_send_ok(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        if let Some(weight) = self.send_health.on_ok() {
            self.demote(now_ns, SEND_ERRORS, weight, &mut actions);
        }
        actions
    }

    /// An advertisement could not be sent. Three in a row demote.
    pub fn on_send_error(&mut self, now_ns: u64) -> Actions {
        self.counters.send_errors += 1;
        let mut actions = Actions::default();
        if let Some(weight) = self.send_health.on_error(now_ns) {
            self.demote(now_ns, SEND_ERRORS, weight, &mut actions);
        }
        actions
    }

    /// `state master`: at once, whoever is master now. Ignored in INIT.
    pub fn force_master(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        match &self.phase {
            Phase::Backup(_) => self.become_master(now_ns, Reason::UserRequested, &mut actions),
            Phase::Master(_) if !self.is_stopped => self.stay(now_ns, &mut actions),
            _ => {}
        }
        actions
    }

    /// `state backup`: hand over. Bows out; after one master-down time we take part as before.
    pub fn force_backup(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        self.leave(now_ns, State::Backup, &mut actions);
        actions
    }

    /// An orderly stop: a MASTER bows out and keeps its addresses until it has; it is over when
    /// [`Vhid::state`] is INIT. Stays stopped until [`Vhid::start`].
    pub fn stop(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        self.is_stopped = true;
        if self.state() == State::Master {
            self.leave(now_ns, State::Init, &mut actions);
        } else {
            self.evaluate(now_ns, &mut actions);
        }
        actions
    }

    /// Takes part again after [`Vhid::stop`].
    pub fn start(&mut self, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        if core::mem::take(&mut self.is_stopped) {
            self.stay(now_ns, &mut actions);
        }
        self.evaluate(now_ns, &mut actions);
        actions
    }
}
