//! Settings put in force: which parent an interface has, when its vhid starts, moves or must wait.
//!
//! Decision: there is one function that makes what runs agree with the settings and the network
//! (`Vhids::adjust`), called after every change of either and when a vhid has left. A function per kind
//! of change would have to know what the others had left undone.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use executor::now_ns;

use super::CarpError;
use super::act::{apply, carry_out, tell_condition};
use super::departure::Departure;
use super::interface::Running;
use super::lan::{Lan, Parent};
use super::settings::{Settings, WantedState};
use super::vhids::{Adjusted, Vhids};
use crate::wire::{COOKIE_LEN, GROUP};
use crate::{State, Vhid};

impl<L: Lan> Vhids<L> {
    pub(super) async fn adjust_or_warn(&mut self, index: usize, parents: &[Parent]) {
        if let Err(error) = self.adjust(index, parents).await {
            log::warn!("{}: {error}", self.interfaces[index].name);
        }
    }

    /// Makes what runs agree with the settings and the network.
    pub(super) async fn adjust(
        &mut self,
        index: usize,
        parents: &[Parent],
    ) -> Result<Adjusted, CarpError> {
        let mut settings = self.interfaces[index].settings.clone();
        // What an interface takes back for itself the node may still have.
        for (reason, weight) in &mut settings.demotions {
            if *weight == 0 {
                *weight = self.demotions.weight(reason);
            }
        }
        self.interfaces[index].waits = false;
        self.check_vacant(index, &settings, parents)?;
        let parent = self.parent(index, &settings, parents);
        let (Some(number), Some(parent)) = (settings.vhid, parent) else {
            let interface = &mut self.interfaces[index];
            return match interface.settings.force.take() {
                Some(_) => Err(CarpError::NotRunning(interface.name.clone())),
                None => Ok(Adjusted::Done),
            };
        };
        let stays =
            |running: &Running| number == running.number() && parent.index == running.parent.index;
        if let Some(moved) = self.interfaces[index].running.take_if(|r| !stays(r)) {
            self.depart(moved).await;
        }
        if self.must_wait(index, number, parent) {
            let interface = &mut self.interfaces[index];
            interface.waits = true;
            if let Some(running) = &mut interface.running {
                running.parent = parent.clone();
                tell_condition(&self.lan, running).await;
            }
            return Ok(Adjusted::Waits);
        }
        if self.interfaces[index].running.is_none() {
            self.create(index, number, parent, &settings).await?;
        }
        let interface = &mut self.interfaces[index];
        let Some(running) = &mut interface.running else {
            return Ok(Adjusted::Done);
        };
        running.parent = parent.clone();
        apply(&self.lan, running, &settings).await?;
        let Some(force) = interface.settings.force.take() else {
            return Ok(Adjusted::Done);
        };
        if running.vhid.state() == State::Init {
            return Err(CarpError::NotRunning(interface.name.clone()));
        }
        let actions = match force {
            WantedState::Master => running.vhid.force_master(now_ns()),
            WantedState::Backup => running.vhid.force_backup(now_ns()),
        };
        carry_out(&self.lan, running, actions).await;
        Ok(Adjusted::Done)
    }

    /// Where an interface with these settings would run.
    fn parent<'a>(
        &self,
        index: usize,
        settings: &Settings,
        parents: &'a [Parent],
    ) -> Option<&'a Parent> {
        settings.find_parent(parents).or_else(|| {
            // Nothing backs the addresses any more: the vhid waits where it was.
            let current = self.interfaces[index].running.as_ref()?;
            parents
                .iter()
                .find(|parent| parent.index == current.parent.index)
        })
    }

    /// Whether no other interface has this vhid where it would run.
    pub(super) fn check_vacant(
        &self,
        index: usize,
        settings: &Settings,
        parents: &[Parent],
    ) -> Result<(), CarpError> {
        let parent = self.parent(index, settings, parents);
        let (Some(number), Some(parent)) = (settings.vhid, parent) else {
            return Ok(());
        };
        let has_it =
            |running: &Running| running.number() == number && running.parent.index == parent.index;
        for (other, interface) in self.interfaces.iter().enumerate() {
            if other != index && interface.running.as_ref().is_some_and(has_it) {
                return Err(CarpError::VhidInUse(number));
            }
        }
        Ok(())
    }

    /// Whether a vhid that is leaving has what this interface is to get, or is this interface's own.
    fn must_wait(&self, index: usize, number: u8, parent: &Parent) -> bool {
        let interface = &self.interfaces[index];
        let wants = |address: &net::VirtualAddress| {
            let wanted = interface.settings.addresses.iter();
            wanted
                .map(net::Ipv4Prefix::address)
                .any(|wanted| wanted == address.address.address())
        };
        self.departures.iter().any(|Departure { running, .. }| {
            running.name == interface.name
                || running.parent.index == parent.index
                    && (running.number() == number || running.registered.iter().any(wants))
        })
    }

    async fn create(
        &mut self,
        index: usize,
        number: u8,
        parent: &Parent,
        settings: &Settings,
    ) -> Result<(), CarpError> {
        self.lan.join(parent, Ipv4Addr::from(GROUP)).await;
        let cookie = self.cookie(number);
        let mut running = Running {
            name: self.interfaces[index].name.clone(),
            vhid: Vhid::new(number, cookie, settings.config.clone())?,
            parent: parent.clone(),
            registered: Vec::new(),
        };
        for (reason, weight) in self.demotions.iter() {
            let actions = running.vhid.set_demotion(now_ns(), reason, weight);
            carry_out(&self.lan, &mut running, actions).await;
        }
        self.interfaces[index].running = Some(running);
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
}
