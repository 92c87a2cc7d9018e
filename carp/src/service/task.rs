//! The CARP task: feeds the state machines and carries out what they ask for.
//!
//! One loop: a message or the earliest timer, then everything that is due. Actions are carried out strictly in order,
//! each to its end: a state change is finished when every CPU knows it, and only then does the advert leave that
//! follows it in the list. What comes in meanwhile waits in the port.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use executor::{Pending, Port, now_ns, timeout};
use net::{InterfaceIndex, Ipv4Prefix, MacAddress, Network, NetworkEvent, RawIpv4, VirtualAddress};

use super::interface::{Interface, Parent};
use super::{Advert, CarpError, Create, Destroy, Random, Service, Stop, Summary, Update, Work};
use crate::wire::{self, Packet, TtlCheck};
use crate::{Action, Actions, Counters, DropReason, Link, State, Vhid};

/// Type of service of an advert: low delay, as OpenBSD, DragonFly and ucarp send it.
const TOS_LOW_DELAY: u8 = 0x10;

struct Task {
    network: Network,
    port: Port<Service>,
    random: Random,
    interfaces: Vec<Interface>,
    preempt: bool,
    /// Reasons to be demoted that hold for every vhid, also for one made later.
    demotions: BTreeMap<String, u8>,
    /// Adverts that reached no vhid.
    unclaimed: Counters,
    /// Interfaces that go away once they have bowed out.
    destroying: Vec<Pending<Destroy>>,
    stopping: Vec<Pending<Stop>>,
}

/// The task of the service; ends with its node.
pub(super) async fn run(network: Network, port: Port<Service>, random: Random) {
    let mut task = Task {
        network,
        port,
        random,
        interfaces: Vec::new(),
        preempt: false,
        demotions: BTreeMap::new(),
        unclaimed: Counters::default(),
        destroying: Vec::new(),
        stopping: Vec::new(),
    };
    loop {
        if let Some(work) = task.next_work().await {
            task.handle(work).await;
        }
        task.run_timers().await;
        task.finish_departures().await;
    }
}

impl Task {
    /// The next message, or None when a timer is due first.
    async fn next_work(&self) -> Option<Work> {
        let deadlines = self.interfaces.iter().filter_map(|i| i.vhid.as_ref()?.next_deadline_ns());
        match deadlines.min() {
            None => Some(self.port.receive().await),
            Some(deadline_ns) => {
                let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
                timeout(left, self.port.receive()).await.ok()
            }
        }
    }

    async fn handle(&mut self, work: Work) {
        match work {
            Work::Advert(pending) => self.on_advert(pending.message()).await,
            Work::Event(pending) => self.on_event(pending.message().event).await,
            Work::Configure(pending) => {
                let message = pending.message();
                let result = match self.find(&message.name) {
                    Ok(index) => self.configure(index, &message.update).await,
                    Err(error) => Err(error),
                };
                pending.reply(result);
            }
            Work::Create(pending) => {
                let result = self.create(pending.message());
                pending.reply(result);
            }
            Work::Destroy(pending) => match self.find(&pending.message().name) {
                Ok(index) => {
                    self.input(index, Vhid::stop).await;
                    self.destroying.push(pending);
                }
                Err(error) => pending.reply(Err(error)),
            },
            Work::Describe(pending) => {
                let interfaces = self.interfaces.iter().map(Interface::status).collect();
                let unclaimed = self.unclaimed.clone();
                pending.reply(Summary { unclaimed, preempt: self.preempt, interfaces });
            }
            Work::SetPreempt(pending) => {
                self.preempt = pending.message().on;
                for index in 0..self.interfaces.len() {
                    self.interfaces[index].config.preempt = self.preempt;
                    self.reconfigure(index).await;
                }
                pending.reply(());
            }
            Work::Demote(pending) => {
                let (reason, weight) = (pending.message().reason.clone(), pending.message().weight);
                self.demotions.insert(reason.clone(), weight);
                self.demotions.retain(|_, weight| *weight != 0);
                for index in 0..self.interfaces.len() {
                    self.input(index, |vhid, now| vhid.set_demotion(now, &reason, weight)).await;
                }
                pending.reply(());
            }
            Work::Stop(pending) => {
                for index in 0..self.interfaces.len() {
                    self.input(index, Vhid::stop).await;
                }
                self.stopping.push(pending);
            }
        }
    }

    fn find(&self, name: &str) -> Result<usize, CarpError> {
        let found = self.interfaces.iter().position(|interface| interface.name == name);
        found.ok_or_else(|| CarpError::NoInterface(name.into()))
    }

    fn create(&mut self, message: &Create) -> Result<(), CarpError> {
        let name = &message.name;
        let unit = name.strip_prefix("carp").unwrap_or_default();
        if unit.is_empty() || unit.len() > 4 || !unit.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CarpError::BadName(name.clone()));
        }
        if self.find(name).is_ok() {
            return Err(CarpError::Exists(name.clone()));
        }
        self.interfaces.push(Interface::new(name.clone(), self.preempt));
        Ok(())
    }

    async fn configure(&mut self, index: usize, update: &Update) -> Result<(), CarpError> {
        let (config, addresses) = self.interfaces[index].check(update)?;
        if let Some(number) = update.vhid {
            self.check_free(index, number)?;
        }
        self.interfaces[index].config = config;
        if let Some(number) = update.vhid.filter(|new| self.interfaces[index].number() != Some(*new)) {
            self.give(index, number).await?;
        }
        self.reconfigure(index).await;
        self.replace_addresses(index, addresses).await?;
        if let Some(up) = update.up {
            self.interfaces[index].up = up;
            self.input(index, if up { Vhid::start } else { Vhid::stop }).await;
        }
        match update.state {
            Some(State::Master) => self.input(index, Vhid::force_master).await,
            Some(State::Backup) => self.input(index, Vhid::force_backup).await,
            Some(State::Init) | None => {}
        }
        Ok(())
    }

    fn check_free(&self, index: usize, number: u8) -> Result<(), CarpError> {
        let others = self.interfaces.iter().enumerate().filter(|(other, _)| *other != index);
        match others.map(|(_, other)| other).find(|other| other.number() == Some(number)) {
            Some(other) => Err(CarpError::VhidInUse(number, other.name.clone())),
            None => Ok(()),
        }
    }

    /// Gives an interface its virtual host; one that it had bows out at once.
    async fn give(&mut self, index: usize, number: u8) -> Result<(), CarpError> {
        let addresses = self.interfaces[index].addresses.clone();
        self.replace_addresses(index, Vec::new()).await?;
        let interface = &mut self.interfaces[index];
        let mut vhid = Vhid::new(number, (self.random)(), interface.config.clone())?;
        let mut actions = Vec::new();
        if !interface.up {
            actions.push(vhid.stop(now_ns()));
        }
        for (reason, weight) in &self.demotions {
            actions.push(vhid.set_demotion(now_ns(), reason, *weight));
        }
        interface.vhid = Some(vhid);
        for actions in actions {
            self.carry_out(index, actions).await;
        }
        self.replace_addresses(index, addresses).await
    }

    async fn reconfigure(&mut self, index: usize) {
        let config = self.interfaces[index].config.clone();
        // `check` has accepted these settings, or they only changed `preempt`.
        self.input(index, |vhid, now| vhid.configure(now, config).unwrap_or_default()).await;
    }

    /// Makes `addresses` the list of an interface: new ones are known to every CPU before the state machine hears of
    /// them, old ones are taken back after it has let them go.
    async fn replace_addresses(
        &mut self,
        index: usize,
        addresses: Vec<Ipv4Prefix>,
    ) -> Result<(), CarpError> {
        let old = core::mem::replace(&mut self.interfaces[index].addresses, addresses);
        if old == self.interfaces[index].addresses {
            return Ok(());
        }
        self.rebind(index).await?;
        self.publish(index).await?;
        let hashed = self.interfaces[index].hashed_addresses();
        self.input(index, |vhid, now| vhid.set_addresses(now, hashed)).await;
        let gone = old.iter().filter(|prefix| !self.interfaces[index].addresses.contains(prefix));
        if let Some((parent, number, _)) = self.interfaces[index].way_out() {
            for prefix in gone {
                self.network.remove_virtual(parent, number, prefix.address()).await;
            }
        }
        Ok(())
    }

    /// Tells every CPU this interface's addresses and whether they are ours to answer.
    async fn publish(&self, index: usize) -> Result<(), CarpError> {
        let interface = &self.interfaces[index];
        let Some((parent, number, _)) = interface.way_out() else { return Ok(()) };
        for address in &interface.addresses {
            let virtual_address = VirtualAddress {
                interface: parent,
                address: *address,
                vhid: number,
                mac: MacAddress(wire::virtual_mac(number)),
                master: interface.state() == State::Master,
            };
            let set = self.network.set_virtual(virtual_address).await;
            set.map_err(|error| CarpError::Network(error.to_string()))?;
        }
        Ok(())
    }

    /// Looks for the interface's parent again, and moves its addresses if that is another one now.
    async fn rebind(&mut self, index: usize) -> Result<(), CarpError> {
        let found = self.find_parent(&self.interfaces[index].addresses).await;
        let old = self.interfaces[index].parent.clone();
        if old == found {
            return Ok(());
        }
        let moved = old.as_ref().map(|parent| parent.index) != found.as_ref().map(|p| p.index);
        if moved && let Some((parent, number, _)) = self.interfaces[index].way_out() {
            for prefix in self.interfaces[index].addresses.clone() {
                self.network.remove_virtual(parent, number, prefix.address()).await;
            }
        }
        self.interfaces[index].parent = found;
        if moved {
            self.publish(index).await?;
        }
        if let Some(parent) = &self.interfaces[index].parent
            && let Err(error) = self.network.join_group(&parent.name, Ipv4Addr::from(wire::GROUP)).await
        {
            log::warn!("{}: cannot listen to 224.0.0.18: {error}", self.interfaces[index].name);
        }
        for actions in self.interfaces[index].bind(now_ns()) {
            self.carry_out(index, actions).await;
        }
        Ok(())
    }

    async fn find_parent(&self, addresses: &[Ipv4Prefix]) -> Option<Parent> {
        for status in self.network.interfaces().await {
            if !status.flags.up || status.flags.loopback || !status.flags.multicast {
                continue;
            }
            let backing = status.addresses.iter().find(|own| {
                addresses.iter().any(|virtual_address| own.contains(virtual_address.address()))
            });
            if let Some(backing) = backing {
                return Some(Parent {
                    index: status.index,
                    name: status.name.to_string(),
                    source: backing.address(),
                    link: if status.flags.running { Link::Up } else { Link::Down },
                });
            }
        }
        None
    }

    async fn on_advert(&mut self, advert: &Advert) {
        let input = &advert.input;
        let packet = match Packet::receive(&input.packet[..], input.ttl, TtlCheck::Required) {
            Ok(packet) => packet,
            Err(reason) => return self.unclaimed(reason),
        };
        let claims = |interface: &Interface| {
            interface.way_out().is_some_and(|(parent, number, _)| {
                parent == input.frame.interface && number == packet.vhid()
            })
        };
        let Some(index) = self.interfaces.iter().position(claims) else {
            return self.unclaimed(DropReason::Vhid);
        };
        self.input(index, |vhid, now| vhid.on_advert(now, input.source, &packet)).await;
    }

    fn unclaimed(&mut self, reason: DropReason) {
        self.unclaimed.received += 1;
        self.unclaimed.count_drop(reason);
    }

    async fn on_event(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::AddressConflict { interface, address, mac, .. } => {
                for index in self.on_parent(interface) {
                    self.input(index, |vhid, now| vhid.on_arp(now, address, mac.0)).await;
                }
            }
            NetworkEvent::LinkChange { .. } | NetworkEvent::AddressChange { .. } => {
                for index in 0..self.interfaces.len() {
                    if let Err(error) = self.rebind(index).await {
                        log::warn!("{}: {error}", self.interfaces[index].name);
                    }
                }
            }
        }
    }

    fn on_parent(&self, parent: InterfaceIndex) -> Vec<usize> {
        let is_on = |interface: &Interface| {
            interface.parent.as_ref().is_some_and(|found| found.index == parent)
        };
        (0..self.interfaces.len()).filter(|index| is_on(&self.interfaces[*index])).collect()
    }

    async fn run_timers(&mut self) {
        let now = now_ns();
        for index in 0..self.interfaces.len() {
            let due = self.interfaces[index].vhid.as_ref().and_then(Vhid::next_deadline_ns);
            if due.is_some_and(|due| due <= now) {
                self.input(index, Vhid::on_timer).await;
            }
        }
    }

    /// Gives a vhid an input, if there is one, and carries out what it asks for.
    async fn input(&mut self, index: usize, input: impl FnOnce(&mut Vhid, u64) -> Actions) {
        if let Some(vhid) = &mut self.interfaces[index].vhid {
            let actions = input(vhid, now_ns());
            self.carry_out(index, actions).await;
        }
    }

    /// Carries `actions` out in order, and what they lead to behind them.
    async fn carry_out(&mut self, index: usize, actions: Actions) {
        let mut queue: VecDeque<Action> = actions.into_iter().collect();
        while let Some(action) = queue.pop_front() {
            match action {
                Action::SendAdvert(advert) => {
                    let sent = self.send(index, &advert.to_bytes());
                    if let Some(vhid) = &mut self.interfaces[index].vhid {
                        let now = now_ns();
                        queue.extend(if sent { vhid.on_send_ok(now) } else { vhid.on_send_error(now) });
                    }
                }
                Action::SendGratuitousArp(_) => {
                    // The network announces all addresses of a vhid at once.
                    while matches!(queue.front(), Some(Action::SendGratuitousArp(_))) {
                        queue.pop_front();
                    }
                    if let Some((parent, number, _)) = self.interfaces[index].way_out() {
                        // A refusal is counted by the network; the next advert's round announces again.
                        let _ = self.network.announce(parent, number);
                    }
                }
                Action::StateChanged(change) => {
                    if let Some((parent, number, _)) = self.interfaces[index].way_out() {
                        self.network.set_master(parent, number, change.to == State::Master).await;
                    }
                    log::info!("{}: {change}", self.interfaces[index].name);
                }
                Action::DemotionChanged(change) => {
                    log::info!("{}: {change}", self.interfaces[index].name);
                }
                Action::SplitBrain(sign) => log::warn!("{}: {sign}", self.interfaces[index].name),
            }
        }
    }

    fn send(&self, index: usize, payload: &[u8]) -> bool {
        let Some((parent, number, source)) = self.interfaces[index].way_out() else { return false };
        let raw = RawIpv4 {
            protocol: wire::PROTOCOL,
            ttl: wire::TTL,
            tos: TOS_LOW_DELAY,
            dont_fragment: true,
            source,
            destination: Ipv4Addr::from(wire::GROUP),
            payload,
        };
        self.network.send_from_virtual(parent, number, raw).is_ok()
    }

    /// Answers those who wait for a bow-out that is over.
    async fn finish_departures(&mut self) {
        for pending in core::mem::take(&mut self.destroying) {
            match self.find(&pending.message().name) {
                Ok(index) if self.interfaces[index].state() != State::Init => {
                    self.destroying.push(pending);
                }
                Ok(index) => {
                    let result = self.replace_addresses(index, Vec::new()).await;
                    self.interfaces.remove(index);
                    pending.reply(result);
                }
                Err(error) => pending.reply(Err(error)),
            }
        }
        if self.interfaces.iter().all(|interface| interface.state() == State::Init) {
            for pending in self.stopping.drain(..) {
                pending.reply(());
            }
        }
    }
}
