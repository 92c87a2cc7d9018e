//! `ifconfig`: shows and changes interfaces, those of devices and those of CARP.

use alloc::string::String;
use alloc::vec::Vec;

use carp::service::{CarpError, CarpStatus, Change};
use net::{InterfaceStatus, Ipv4Prefix};

use super::arguments::{ArgumentError, Arguments};
use super::syntax::ifconfig::{Request, parse};
use super::{Command, CommandError, Context, owned, run};

// Interface flags as BSD's <net/if.h> numbers them.
const FLAGS: [(u32, &str); 6] = [
    (0x1, "UP"),
    (0x2, "BROADCAST"),
    (0x8, "LOOPBACK"),
    (0x40, "RUNNING"),
    (0x800, "SIMPLEX"),
    (0x8000, "MULTICAST"),
];

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "ifconfig",
    summary: "show or change network interfaces",
    usage: "ifconfig [-a | -l | IF]\n\
            ifconfig IF [ADDRESS/LENGTH] [-alias ADDRESS] [up | down]\n\
            ifconfig carp0 create | destroy | vhaddr\n\
            ifconfig carp0 [vhid N] [pass WORD] [advbase N] [advskew N] [ADDRESS/LENGTH]\n\
            \x20              [state master|backup] [demote REASON WEIGHT] [up | down]",
    complete: |context, words| match words.len() {
        1 => {
            let statuses = context.services.network.interfaces();
            let mut names: Vec<String> = statuses.into_iter().map(|status| status.name).collect();
            names.extend(owned(&["carp0", "-a", "-l"]));
            names
        }
        _ => owned(&[
            "up",
            "down",
            "alias",
            "-alias",
            "vhid",
            "pass",
            "advbase",
            "advskew",
            "state",
            "demote",
            "master",
            "backup",
            "create",
            "destroy",
            "vhaddr",
            "netmask",
            "prefixlen",
        ]),
    },
    run: run!(ifconfig),
}];

async fn ifconfig(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    match parse(words)? {
        Request::ShowAll => {
            for status in context.services.network.interfaces() {
                show_device(context, &status).await;
            }
            for status in context.services.carp.report().await.interfaces {
                show_carp(context, &status).await;
            }
            Ok(())
        }
        Request::Names => {
            let devices = context
                .services
                .network
                .interfaces()
                .into_iter()
                .map(|s| s.name);
            let carps = context.services.carp.report().await.interfaces;
            let names: Vec<String> = devices.chain(carps.into_iter().map(|s| s.name)).collect();
            context
                .output
                .line(format_args!("{}", names.join(" ")))
                .await;
            Ok(())
        }
        Request::Show(name) if is_carp(&name) => {
            show_carp(context, &find_carp(context, &name).await?).await;
            Ok(())
        }
        Request::Show(name) => {
            let mut statuses = context.services.network.interfaces().into_iter();
            let status = statuses.find(|status| status.name == name);
            show_device(context, &status.ok_or(net::ConfigError::NoSuchInterface)?).await;
            Ok(())
        }
        Request::VirtualAddresses(name) => {
            show_virtual_addresses(context, &find_carp(context, &name).await?).await;
            Ok(())
        }
        Request::Destroy(name) => Ok(context.services.carp.destroy(&name).await?),
        Request::Configure {
            name,
            create,
            changes,
        } if create || is_carp(&name) => Ok(context
            .services
            .carp
            .configure(&name, create, changes)
            .await?),
        Request::Configure { name, changes, .. } => change_device(context, &name, &changes).await,
    }
}

fn is_carp(name: &str) -> bool {
    name.starts_with("carp")
}

async fn find_carp(context: &Context, name: &str) -> Result<CarpStatus, CommandError> {
    let statuses = context.services.carp.report().await.interfaces;
    let found = statuses.into_iter().find(|status| status.name == name);
    found.ok_or_else(|| CarpError::NoSuchInterface(name.into()).into())
}

async fn change_device(
    context: &Context,
    name: &str,
    changes: &[Change],
) -> Result<(), CommandError> {
    let network = &context.services.network;
    network.find(name)?;
    // All words are looked at before anything is changed.
    for change in changes {
        let word = match change {
            Change::Vhid(_) => "vhid",
            Change::Password(_) => "pass",
            Change::Advbase(_) => "advbase",
            Change::Advskew(_) => "advskew",
            Change::State(_) => "state",
            Change::Demote(..) => "demote",
            Change::Up | Change::Down | Change::Address(..) | Change::RemoveAddress(_) => continue,
        };
        let reason = "only carp interfaces have it; `ifconfig carp0 create` makes one";
        return Err(ArgumentError::Conflict {
            word: word.into(),
            reason,
        }
        .into());
    }
    for change in changes {
        match change {
            Change::Address(address, length) => {
                let prefix =
                    Ipv4Prefix::new(*address, *length).ok_or(net::ConfigError::BadAddress)?;
                network.add_address(name, prefix).await?;
                // As on the BSDs: giving an interface an address brings it up.
                if !changes.contains(&Change::Down) {
                    network.set_up(name, true).await?;
                }
            }
            Change::RemoveAddress(address) => network.remove_address(name, *address).await?,
            Change::Up => network.set_up(name, true).await?,
            Change::Down => network.set_up(name, false).await?,
            _ => {}
        }
    }
    Ok(())
}

/// `flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>`
fn flag_text(flags: u32) -> String {
    let names: Vec<&str> = FLAGS
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    alloc::format!("flags={flags:x}<{}>", names.join(","))
}

async fn show_address(context: &Context, address: Ipv4Prefix) {
    let mask = u32::from(address.netmask());
    let mut line = alloc::format!("\tinet {} netmask {mask:#010x}", address.address());
    if let Some(broadcast) = address.broadcast() {
        line.push_str(&alloc::format!(" broadcast {broadcast}"));
    }
    context.output.line(format_args!("{line}")).await;
}

async fn show_device(context: &Context, status: &InterfaceStatus) {
    let mut flags = if status.is_loopback { 0x8 } else { 0x2 | 0x800 } | 0x8000;
    if status.up {
        flags |= 0x1 | 0x40;
    }
    let output = &context.output;
    let (name, mtu) = (&status.name, status.mtu_bytes);
    output
        .line(format_args!("{name}: {} mtu {mtu}", flag_text(flags)))
        .await;
    for address in &status.addresses {
        show_address(context, *address).await;
    }
    if let Some(mac) = status.mac {
        output.line(format_args!("\tether {mac}")).await;
        let link = if status.link { "active" } else { "no carrier" };
        output.line(format_args!("\tstatus: {link}")).await;
    }
}

async fn show_carp(context: &Context, status: &CarpStatus) {
    let output = &context.output;
    let mut flags = 0x8000 | 0x800 | 0x2;
    if status.up {
        flags |= 0x1;
    }
    if status.state == carp::State::Master {
        flags |= 0x40;
    }
    output
        .line(format_args!("{}: {}", status.name, flag_text(flags)))
        .await;
    for (address, _) in &status.addresses {
        show_address(context, *address).await;
    }
    let mut line = alloc::format!("\tcarp: {}", status.state);
    if let Some(parent) = &status.parent {
        line.push_str(&alloc::format!(" carpdev {parent}"));
    }
    match status.vhid {
        Some(vhid) => line.push_str(&alloc::format!(" vhid {vhid}")),
        None => line.push_str(" vhid (none, set one)"),
    }
    let timing = status.timing;
    line.push_str(&alloc::format!(
        " advbase {} advskew {}",
        timing.advbase,
        timing.advskew
    ));
    output.line(format_args!("{line}")).await;
    if let Some(vhid) = status.vhid {
        output
            .line(format_args!("\tether {}", net::virtual_mac(vhid)))
            .await;
    }
    if let Some(master) = status.master {
        output.line(format_args!("\tmaster: {master}")).await;
    }
    for (name, weight) in &status.demotions {
        output
            .line(format_args!("\tdemoted: by {weight} ({name})"))
            .await;
    }
}

/// The virtual addresses with the real one behind each, as DragonFly's `vhaddr`.
async fn show_virtual_addresses(context: &Context, status: &CarpStatus) {
    for (address, active) in &status.addresses {
        let behind = match (active, status.source, &status.parent) {
            (true, Some(source), Some(parent)) => alloc::format!("on {parent} by {source}"),
            _ => "inactive: no interface is up on its network".into(),
        };
        context
            .output
            .line(format_args!("\t{address} {behind}"))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_bsd_writes_them() {
        assert_eq!(
            flag_text(0x8843),
            "flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>"
        );
        assert_eq!(flag_text(0), "flags=0<>");
    }
}
