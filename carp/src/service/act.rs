//! From the state machine to the network: settings in, actions out, in order.
//!
//! Decision: each action is awaited before the next. A state change is on every CPU before the
//! advertisement that tells of it leaves, and a bow-out has left before the address is given up.

use alloc::collections::VecDeque;
use core::net::{IpAddr, Ipv4Addr};

use executor::now_ns;
use net::RawIpv4;

use super::CarpError;
use super::interface::Running;
use super::lan::Lan;
use super::settings::Settings;
use crate::vhid::Link;
use crate::wire::{GROUP, PROTOCOL, TTL};
use crate::{Action, Actions, State};

/// Type of service of an advertisement: low delay, as the BSDs send it.
const TOS_LOW_DELAY: u8 = 0x10;

/// Gives the settings and the parent's condition to the vhid. New addresses are known to the network before
/// the vhid speaks of them, old ones until it has stopped to.
pub(super) async fn apply<L: Lan>(
    lan: &L,
    running: &mut Running,
    settings: &Settings,
) -> Result<(), CarpError> {
    let wanted = running.wanted(settings);
    let old = core::mem::take(&mut running.registered);
    for address in &wanted {
        if let Err(refused) = lan.set_virtual(*address).await {
            // What was there still is, and is to be taken away some day.
            running.registered.extend(old);
            return Err(refused.into());
        }
        running.registered.push(*address);
    }
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
    tell_condition(lan, running).await;
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

/// Tells the vhid how its parent is.
pub(super) async fn tell_condition<L: Lan>(lan: &L, running: &mut Running) {
    let link = |up| if up { Link::Up } else { Link::Down };
    let up = link(running.parent.up);
    let actions = running.vhid.on_interface(now_ns(), up);
    carry_out(lan, running, actions).await;
    let carrier = link(running.parent.link);
    let actions = running.vhid.on_link(now_ns(), carrier);
    carry_out(lan, running, actions).await;
}

/// Carries actions out in order, and those that follow from how sending went.
pub(super) async fn carry_out<L: Lan>(lan: &L, running: &mut Running, actions: Actions) {
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
                // Logged when it is decided: some CPU may answer for the address before all of them know.
                log::info!("{}: {change}", running.name);
                lan.set_master(interface, number, change.to == State::Master)
                    .await;
                for address in &mut running.registered {
                    address.master = change.to == State::Master;
                }
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
