//! The service's thread: inputs in, actions carried out one by one.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::pin::pin;

use carp::vhid::Link;
use carp::wire::{COOKIE_LEN, GROUP, PROTOCOL, Packet, TTL, TtlCheck};
use carp::{Action, Actions, DropReason, State, Vhid};
use executor::{Port, now_ns, sleep_until};
use futures_util::future::{Either, select};
use net::RawIpv4;

use super::interface::{Interface, Running, Settings};
use super::lan::{Lan, Parent};
use super::{CarpError, CarpReport, CarpServer, Input, Request, Work};

/// Type of service of an advertisement: low delay, as the BSDs send it.
const TOS_LOW_DELAY: u8 = 0x10;
/// Longest wait for a vhid to say its bow-outs.
const GOODBYE_NS: u64 = 200_000_000;

/// All CARP interfaces of the node.
pub(super) struct Vhids<L> {
    lan: L,
    seed: u64,
    preempt: bool,
    interfaces: Vec<Interface>,
    strays: carp::Counters,
}

impl<L: Lan> Vhids<L> {
    pub fn new(lan: L, seed: u64) -> Self {
        let strays = carp::Counters::default();
        Self {
            lan,
            seed,
            preempt: false,
            interfaces: Vec::new(),
            strays,
        }
    }

    /// The thread.
    pub async fn run(mut self, port: Port<CarpServer>) {
        loop {
            let deadline_ns = self.next_deadline_ns();
            let work = {
                let received = pin!(port.receive());
                let due = pin!(sleep_until(deadline_ns.unwrap_or(u64::MAX)));
                match select(received, due).await {
                    Either::Left((work, _)) => Some(work),
                    Either::Right(_) => None,
                }
            };
            match work {
                Some(Work::Input(pending)) => {
                    self.take(pending.message()).await;
                    pending.reply(());
                }
                Some(Work::Request(pending)) => {
                    let answer = self.serve(pending.message()).await;
                    pending.reply(answer);
                }
                Some(Work::Report(pending)) => pending.reply(self.report()),
                None => {}
            }
            // Whatever came in, no timer waits behind it.
            self.run_due_timers().await;
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let running = self
            .interfaces
            .iter()
            .filter_map(|interface| interface.running.as_ref());
        running
            .filter_map(|running| running.vhid.next_deadline_ns())
            .min()
    }

    async fn run_due_timers(&mut self) {
        for index in 0..self.interfaces.len() {
            let Some(running) = &mut self.interfaces[index].running else {
                continue;
            };
            let now_ns = now_ns();
            if running
                .vhid
                .next_deadline_ns()
                .is_some_and(|deadline_ns| deadline_ns <= now_ns)
            {
                let actions = running.vhid.on_timer(now_ns);
                carry_out(&self.lan, running, actions).await;
            }
        }
    }

    async fn take(&mut self, input: &Input) {
        match input {
            Input::Advert {
                interface,
                source,
                ttl,
                packet,
            } => {
                let packet = match Packet::receive(packet.data(), *ttl, TtlCheck::Required) {
                    Ok(packet) => packet,
                    Err(reason) => return self.count_stray(reason),
                };
                let mut here = self
                    .interfaces
                    .iter_mut()
                    .filter_map(|candidate| candidate.running.as_mut())
                    .filter(|running| running.parent.index == *interface)
                    .peekable();
                if here.peek().is_none() {
                    return self.count_stray(DropReason::Interface);
                }
                let Some(running) = here.find(|running| running.number() == packet.vhid()) else {
                    return self.count_stray(DropReason::Vhid);
                };
                let actions = running.vhid.on_advert(now_ns(), *source, &packet);
                carry_out(&self.lan, running, actions).await;
            }
            Input::Conflict {
                interface,
                vhid,
                address,
                mac,
            } => {
                let concerned = self
                    .interfaces
                    .iter_mut()
                    .filter_map(|i| i.running.as_mut());
                for running in concerned {
                    if running.parent.index == *interface && running.number() == *vhid {
                        let actions = running.vhid.on_arp(now_ns(), *address, mac.0);
                        carry_out(&self.lan, running, actions).await;
                    }
                }
            }
            Input::NetworkChanged => {
                let parents = self.lan.parents().await;
                for index in 0..self.interfaces.len() {
                    if let Err(error) = self.adjust(index, &parents).await {
                        log::warn!("{}: {error}", self.interfaces[index].name);
                    }
                }
            }
        }
    }

    fn count_stray(&mut self, reason: DropReason) {
        self.strays.received += 1;
        self.strays.count_drop(reason);
    }

    async fn serve(&mut self, request: &Request) -> Result<(), CarpError> {
        match request {
            Request::Configure {
                name,
                create,
                changes,
            } => {
                let index = self.find_or_create(name, *create)?;
                let settings = match self.interfaces[index].settings.changed(changes) {
                    Ok(settings) => settings,
                    Err(error) => {
                        if *create {
                            self.interfaces.remove(index);
                        }
                        return Err(error);
                    }
                };
                self.interfaces[index].settings = settings;
                let parents = self.lan.parents().await;
                self.adjust(index, &parents).await
            }
            Request::Destroy { name } => {
                let index = self.find(name)?;
                let mut interface = self.interfaces.remove(index);
                if let Some(running) = interface.running.take() {
                    retire(&self.lan, running).await;
                }
                Ok(())
            }
            Request::SetPreempt(preempt) => {
                self.preempt = *preempt;
                for interface in &mut self.interfaces {
                    interface.settings.config.preempt = *preempt;
                    if let Some(running) = &mut interface.running {
                        let config = interface.settings.config.clone();
                        let actions = running.vhid.configure(now_ns(), config)?;
                        carry_out(&self.lan, running, actions).await;
                    }
                }
                Ok(())
            }
            Request::Stop => {
                for interface in &mut self.interfaces {
                    interface.settings.up = false;
                    if let Some(running) = interface.running.take() {
                        retire(&self.lan, running).await;
                    }
                }
                Ok(())
            }
        }
    }

    fn find(&self, name: &str) -> Result<usize, CarpError> {
        let found = self
            .interfaces
            .iter()
            .position(|interface| interface.name == name);
        found.ok_or_else(|| CarpError::NoSuchInterface(name.into()))
    }

    fn find_or_create(&mut self, name: &str, create: bool) -> Result<usize, CarpError> {
        match (self.find(name), create) {
            (Ok(_), true) => Err(CarpError::Exists(name.into())),
            (found, false) => found,
            (Err(_), true) => {
                let number = name.strip_prefix("carp");
                if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                    return Err(CarpError::BadName(name.into()));
                }
                let settings = Settings::new(self.preempt);
                let interface = Interface {
                    name: String::from(name),
                    settings,
                    running: None,
                };
                self.interfaces.push(interface);
                Ok(self.interfaces.len() - 1)
            }
        }
    }

    /// Makes what runs agree with the settings and the network.
    async fn adjust(&mut self, index: usize, parents: &[Parent]) -> Result<(), CarpError> {
        let settings = self.interfaces[index].settings.clone();
        let current = self.interfaces[index].running.as_ref();
        let number = settings.vhid;
        let parent = settings.find_parent(parents).or_else(|| {
            // Nothing backs the addresses any more: the vhid waits where it was.
            parents
                .iter()
                .find(|parent| current.is_some_and(|c| c.parent.index == parent.index))
        });
        let moved = current.is_some_and(|running| {
            number != Some(running.number())
                || parent.is_some_and(|parent| parent.index != running.parent.index)
        });
        if let (Some(number), Some(parent)) = (number, parent) {
            let taken = self
                .interfaces
                .iter()
                .enumerate()
                .any(|(other, interface)| {
                    let running = interface.running.as_ref();
                    other != index
                        && running
                            .is_some_and(|r| r.number() == number && r.parent.index == parent.index)
                });
            if taken {
                return Err(CarpError::VhidInUse(number));
            }
        }
        if moved && let Some(running) = self.interfaces[index].running.take() {
            retire(&self.lan, running).await;
        }
        let (Some(number), Some(parent)) = (number, parent) else {
            let interface = &mut self.interfaces[index];
            return match interface.settings.force.take() {
                Some(_) => Err(CarpError::NotRunning(interface.name.clone())),
                None => Ok(()),
            };
        };
        if self.interfaces[index].running.is_none() {
            self.lan.join(parent, Ipv4Addr::from(GROUP)).await;
            let cookie = self.cookie(number);
            let vhid = Vhid::new(number, cookie, settings.config.clone())?;
            let name = self.interfaces[index].name.clone();
            let running = Running {
                name,
                vhid,
                parent: parent.clone(),
                registered: Vec::new(),
            };
            self.interfaces[index].running = Some(running);
        }
        let interface = &mut self.interfaces[index];
        let Some(running) = &mut interface.running else {
            return Ok(());
        };
        running.parent = parent.clone();
        apply(&self.lan, running, &settings).await?;
        let Some(force) = interface.settings.force.take() else {
            return Ok(());
        };
        if running.vhid.state() == State::Init {
            return Err(CarpError::NotRunning(interface.name.clone()));
        }
        use crate::commands::syntax::ifconfig::WantedState;
        let actions = match force {
            WantedState::Master => running.vhid.force_master(now_ns()),
            WantedState::Backup => running.vhid.force_backup(now_ns()),
        };
        carry_out(&self.lan, running, actions).await;
        Ok(())
    }

    /// Eight bytes that no other vhid and no other node has: splitmix64 (Steele, Lea, Flood 2014) of the
    /// seed. They need not be secret: they tell our own packets from others'.
    fn cookie(&mut self, vhid: u8) -> [u8; COOKIE_LEN] {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from(vhid) << 56;
        let mut mixed = self.seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).to_le_bytes()
    }

    fn report(&self) -> CarpReport {
        let mut interfaces: Vec<_> = self.interfaces.iter().map(Interface::status).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        CarpReport {
            interfaces,
            strays: self.strays.clone(),
        }
    }
}

/// Gives the settings and the parent's condition to the vhid. New addresses are known to the network before
/// the vhid speaks of them, old ones until it has stopped to.
async fn apply<L: Lan>(
    lan: &L,
    running: &mut Running,
    settings: &Settings,
) -> Result<(), CarpError> {
    let wanted = running.wanted(settings);
    let old = core::mem::take(&mut running.registered);
    for address in &wanted {
        lan.set_virtual(*address).await?;
        running.registered.push(*address);
    }
    let link = |up| if up { Link::Up } else { Link::Down };
    let source = running.source(settings);
    let addresses = wanted
        .iter()
        .map(|vip| IpAddr::V4(vip.address.address()))
        .collect();
    let actions = running.vhid.configure(now_ns(), settings.config.clone())?;
    carry_out(lan, running, actions).await;
    for (reason, weight) in &settings.demotions {
        let actions = running.vhid.set_demotion(now_ns(), reason, *weight);
        carry_out(lan, running, actions).await;
    }
    // A vhid that was told to stay down is stopped before it hears that everything else is there.
    let actions = if settings.up {
        running.vhid.start(now_ns())
    } else {
        running.vhid.stop(now_ns())
    };
    carry_out(lan, running, actions).await;
    let actions = running.vhid.set_source(now_ns(), source);
    carry_out(lan, running, actions).await;
    let actions = running.vhid.set_addresses(now_ns(), addresses);
    carry_out(lan, running, actions).await;
    let up = link(running.parent.up);
    let actions = running.vhid.on_interface(now_ns(), up);
    carry_out(lan, running, actions).await;
    let carrier = link(running.parent.link);
    let actions = running.vhid.on_link(now_ns(), carrier);
    carry_out(lan, running, actions).await;
    for address in old {
        let kept = |kept: &net::VirtualAddress| {
            kept.address.address() == address.address.address()
                && kept.interface == address.interface
        };
        if !running.registered.iter().any(kept) {
            lan.remove_virtual(address).await;
        }
    }
    Ok(())
}

/// Bows out, and has the network forget the addresses.
async fn retire<L: Lan>(lan: &L, mut running: Running) {
    let until_ns = now_ns().saturating_add(GOODBYE_NS);
    let actions = running.vhid.stop(now_ns());
    carry_out(lan, &mut running, actions).await;
    while running.vhid.state() != State::Init && now_ns() < until_ns {
        let deadline_ns = running.vhid.next_deadline_ns().unwrap_or(until_ns);
        sleep_until(deadline_ns.min(until_ns)).await;
        let actions = running.vhid.on_timer(now_ns());
        carry_out(lan, &mut running, actions).await;
    }
    for address in &running.registered {
        lan.remove_virtual(*address).await;
    }
}

/// Carries actions out in order, and those that follow from how sending went.
async fn carry_out<L: Lan>(lan: &L, running: &mut Running, actions: Actions) {
    let (interface, number) = (running.parent.index, running.number());
    let mut left: VecDeque<Action> = actions.into_iter().collect();
    let mut announced = false;
    while let Some(action) = left.pop_front() {
        // One call announces all addresses of the vhid; the machine asks for one after another.
        let announcing = matches!(action, Action::SendGratuitousArp(_));
        let from = (!matches!(action, Action::SendFarewell(_))).then_some(number);
        match action {
            Action::SendAdvert(advert) | Action::SendFarewell(advert) => {
                let sent = lan.send(
                    interface,
                    from,
                    RawIpv4 {
                        protocol: PROTOCOL,
                        ttl: TTL,
                        tos: TOS_LOW_DELAY,
                        dont_fragment: true,
                        source: running.vhid.source().unwrap_or(Ipv4Addr::UNSPECIFIED),
                        destination: Ipv4Addr::from(GROUP),
                        payload: &advert.to_bytes(),
                    },
                );
                left.extend(match sent {
                    Ok(()) => running.vhid.on_send_ok(now_ns()),
                    Err(_) => running.vhid.on_send_error(now_ns()),
                });
            }
            // Refused only when this node is not master; then there is nothing to announce.
            Action::SendGratuitousArp(_) if !announced => drop(lan.announce(interface, number)),
            Action::SendGratuitousArp(_) => {}
            Action::StateChanged(change) => {
                lan.set_master(interface, number, change.to == State::Master)
                    .await;
                for address in &mut running.registered {
                    address.master = change.to == State::Master;
                }
                log::info!("{}: {change}", running.name);
            }
            Action::DemotionChanged(change) => {
                log::info!("{}: {change}", running.name);
            }
            Action::SplitBrain(report) => {
                log::warn!(
                    "{}: vhid {number} on {}: {report}",
                    running.name,
                    running.parent.name
                );
            }
        }
        announced = announcing;
    }
}
