//! The service's thread: inputs and requests in, timers, and what each means for the vhids.
//!
//! Decision: after every input the timers that are due run before the next input is looked at, so that a flood
//! of advertisements cannot hold up one of ours.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::pin::pin;

use executor::{Port, now_ns, sleep_until};
use futures_util::future::{Either, select};
use net::InterfaceIndex;

use super::act::{carry_out, tell_condition};
use super::departure::{Departure, Waiting};
use super::interface::{Interface, Running, list};
use super::lan::Lan;
use super::message::{CarpServer, Input, Request, Work};
use super::settings::Settings;
use super::{CarpError, CarpReport};
use crate::demotion::{Demotions, SEND_ERRORS};
use crate::wire::{Packet, TtlCheck};
use crate::{Counters, DropReason};

/// All CARP interfaces of the node.
pub(super) struct Vhids<L> {
    pub(super) lan: L,
    pub(super) seed: u64,
    preempt: bool,
    /// For every vhid, also those that come later.
    pub(super) demotions: Demotions,
    pub(super) interfaces: Vec<Interface>,
    pub(super) departures: Vec<Departure>,
    waiting: Vec<Waiting>,
    strays: Counters,
    /// The sum of those vhids' that are gone.
    departed: Counters,
}

/// How far an interface agrees with its settings.
pub(super) enum Adjusted {
    Done,
    /// When a vhid that is leaving has left, it will be tried again.
    Waits,
}

/// The thread.
impl<L: Lan> Vhids<L> {
    pub fn new(lan: L, seed: u64) -> Self {
        Self {
            lan,
            seed,
            preempt: false,
            demotions: Demotions::default(),
            interfaces: Vec::new(),
            departures: Vec::new(),
            waiting: Vec::new(),
            strays: Counters::default(),
            departed: Counters::default(),
        }
    }

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
                Some(Work::Request(pending)) => match self.serve(pending.message()).await {
                    Ok(Adjusted::Done) => pending.reply(Ok(())),
                    Ok(Adjusted::Waits) => self.waiting.push(Waiting(pending)),
                    Err(error) => pending.reply(Err(error)),
                },
                Some(Work::Report(pending)) => pending.reply(self.report()),
                None => {}
            }
            self.run_due_timers().await;
            self.end_departures().await;
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let running = self
            .interfaces
            .iter()
            .filter_map(|interface| interface.running.as_ref()?.vhid.next_deadline_ns());
        let leaving = self.departures.iter().map(Departure::next_deadline_ns);
        running.chain(leaving).min()
    }

    async fn run_due_timers(&mut self) {
        for running in all(&mut self.interfaces, &mut self.departures) {
            let (now_ns, deadline_ns) = (now_ns(), running.vhid.next_deadline_ns());
            if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns) {
                let actions = running.vhid.on_timer(now_ns);
                carry_out(&self.lan, running, actions).await;
            }
        }
    }

    /// Ends the departures that are over, and does what had to wait for them.
    async fn end_departures(&mut self) {
        let mut waited_for = false;
        let is_over = |departure: &Departure| departure.is_over(now_ns());
        while let Some(index) = self.departures.iter().position(is_over) {
            let departure = self.departures.remove(index);
            self.end(departure).await;
            waited_for = true;
        }
        if !waited_for {
            return;
        }
        for waiting in core::mem::take(&mut self.waiting) {
            match self.retry(&waiting).await {
                Ok(Adjusted::Done) => waiting.0.reply(Ok(())),
                Ok(Adjusted::Waits) => self.waiting.push(waiting),
                Err(error) => waiting.0.reply(Err(error)),
            }
        }
        let parents = self.lan.parents().await;
        for index in 0..self.interfaces.len() {
            if self.interfaces[index].waits {
                self.adjust_or_warn(index, &parents).await;
            }
        }
    }

    async fn retry(&mut self, waiting: &Waiting) -> Result<Adjusted, CarpError> {
        if let Request::Configure { name, .. } = waiting.0.message() {
            let index = self.find(name)?;
            let parents = self.lan.parents().await;
            return self.adjust(index, &parents).await;
        }
        let waits = self.departures.iter().any(|other| waiting.is_for(other));
        Ok(if waits {
            Adjusted::Waits
        } else {
            Adjusted::Done
        })
    }

    /// Has a vhid leave.
    pub(super) async fn depart(&mut self, running: Running) {
        let departure = Departure::begin(&self.lan, running).await;
        if departure.is_over(now_ns()) {
            self.end(departure).await;
        } else {
            self.departures.push(departure);
        }
    }

    async fn end(&mut self, departure: Departure) {
        departure.end(&self.lan).await;
        self.departed.add(departure.running.vhid.counters());
    }

    fn report(&self) -> CarpReport {
        let mut interfaces: Vec<_> = self.interfaces.iter().map(Interface::status).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        let mut departed = self.departed.clone();
        for departure in &self.departures {
            departed.add(departure.running.vhid.counters());
        }
        CarpReport {
            interfaces,
            demotions: list(&self.demotions),
            strays: self.strays.clone(),
            departed,
        }
    }
}

/// Inputs.
impl<L: Lan> Vhids<L> {
    async fn take(&mut self, input: &Input) {
        match input {
            Input::Advert {
                interface,
                source,
                ttl,
                packet,
            } => match Packet::receive(packet.data(), *ttl, TtlCheck::Required) {
                Ok(packet) => self.take_advert(*interface, *source, &packet).await,
                Err(reason) => self.count_stray(reason),
            },
            Input::Conflict {
                interface,
                vhid,
                address,
                mac,
            } => {
                for running in all(&mut self.interfaces, &mut self.departures) {
                    if running.parent.index == *interface && running.number() == *vhid {
                        let actions = running.vhid.on_arp(now_ns(), *address, mac.0);
                        carry_out(&self.lan, running, actions).await;
                    }
                }
            }
            Input::NetworkChanged => {
                let parents = self.lan.parents().await;
                for index in 0..self.interfaces.len() {
                    self.adjust_or_warn(index, &parents).await;
                }
                for Departure { running, .. } in &mut self.departures {
                    let index = running.parent.index;
                    if let Some(parent) = parents.iter().find(|parent| parent.index == index) {
                        running.parent = parent.clone();
                        tell_condition(&self.lan, running).await;
                    }
                }
            }
        }
    }

    async fn take_advert(
        &mut self,
        interface: InterfaceIndex,
        source: Ipv4Addr,
        packet: &Packet<&[u8]>,
    ) {
        let mut here = all(&mut self.interfaces, &mut self.departures)
            .filter(|running| running.parent.index == interface)
            .peekable();
        if here.peek().is_none() {
            drop(here);
            return self.count_stray(DropReason::Interface);
        }
        let Some(running) = here.find(|running| running.number() == packet.vhid()) else {
            drop(here);
            return self.count_stray(DropReason::Vhid);
        };
        let actions = running.vhid.on_advert(now_ns(), source, packet);
        carry_out(&self.lan, running, actions).await;
    }

    fn count_stray(&mut self, reason: DropReason) {
        self.strays.received += 1;
        self.strays.count_drop(reason);
    }
}

/// Requests.
impl<L: Lan> Vhids<L> {
    async fn serve(&mut self, request: &Request) -> Result<Adjusted, CarpError> {
        match request {
            Request::Configure {
                name,
                create,
                changes,
            } => {
                let index = self.find_or_create(name, *create)?;
                let parents = self.lan.parents().await;
                let settings =
                    self.interfaces[index]
                        .settings
                        .changed(changes)
                        .and_then(|settings| {
                            self.check_vacant(index, &settings, &parents)?;
                            Ok(settings)
                        });
                match settings {
                    Ok(settings) => self.interfaces[index].settings = settings,
                    Err(error) => {
                        if *create {
                            self.interfaces.remove(index);
                        }
                        return Err(error);
                    }
                }
                self.adjust(index, &parents).await
            }
            Request::Destroy { name } => {
                let index = self.find(name)?;
                if let Some(running) = self.interfaces.remove(index).running {
                    self.depart(running).await;
                }
                let leaves = |departure: &Departure| departure.running.name == *name;
                Ok(if self.departures.iter().any(leaves) {
                    Adjusted::Waits
                } else {
                    Adjusted::Done
                })
            }
            Request::Demote { reason, .. } if reason == SEND_ERRORS => Err(CarpError::OwnReason),
            Request::Demote { reason, weight } => {
                let _ = self.demotions.set(reason, *weight);
                for interface in &mut self.interfaces {
                    if interface.settings.demotes_for(reason) {
                        continue;
                    }
                    if let Some(running) = &mut interface.running {
                        let actions = running.vhid.set_demotion(now_ns(), reason, *weight);
                        carry_out(&self.lan, running, actions).await;
                    }
                }
                Ok(Adjusted::Done)
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
                Ok(Adjusted::Done)
            }
            Request::Stop => {
                for index in 0..self.interfaces.len() {
                    self.interfaces[index].settings.up = false;
                    if let Some(running) = self.interfaces[index].running.take() {
                        self.depart(running).await;
                    }
                }
                Ok(if self.departures.is_empty() {
                    Adjusted::Done
                } else {
                    Adjusted::Waits
                })
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
                self.interfaces.push(Interface {
                    name: String::from(name),
                    settings: Settings::new(self.preempt),
                    running: None,
                    waits: false,
                });
                Ok(self.interfaces.len() - 1)
            }
        }
    }
}

/// Every vhid, those that stay and those that leave.
fn all<'a>(
    interfaces: &'a mut [Interface],
    departures: &'a mut [Departure],
) -> impl Iterator<Item = &'a mut Running> {
    let staying = interfaces
        .iter_mut()
        .filter_map(|interface| interface.running.as_mut());
    staying.chain(
        departures
            .iter_mut()
            .map(|departure| &mut departure.running),
    )
}
