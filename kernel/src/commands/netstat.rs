//! `netstat`, `arp`, `route`: what the network knows and counted.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::Ipv4Addr;

use carp::service::CarpReport;
use net::{ArpEntry, Ipv4Prefix, Protocol, Snapshot};

use super::arguments::Arguments;
use super::syntax::network::{Arp, Netstat, Route, parse_arp, parse_netstat, parse_route};
use super::{Command, CommandError, Context, no_words, owned, run};
use crate::network::interface_row;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "arp",
        summary: "show or forget who has which address",
        usage: "arp [-a]\narp ADDRESS\narp -d ADDRESS\narp -d -a",
        complete: |_, _| owned(&["-a", "-d"]),
        run: run!(arp),
    },
    Command {
        name: "netstat",
        summary: "counters of the protocols and interfaces; the routes",
        usage: "netstat -s [-p PROTOCOL|INTERFACE]\nnetstat -i\nnetstat -r",
        complete: |context, words| match words.last().map(String::as_str) {
            Some("-p") => {
                let interfaces = context.services.network.interfaces();
                let names = interfaces.into_iter().map(|status| status.name);
                protocols().map(String::from).chain(names).collect()
            }
            _ => owned(&["-s", "-p", "-i", "-r"]),
        },
        run: run!(netstat),
    },
    Command {
        name: "route",
        summary: "show or change the routes",
        usage: "route [show]\nroute add default|NETWORK/LENGTH|HOST GATEWAY\n\
                route delete default|NETWORK/LENGTH|HOST",
        complete: no_words,
        run: run!(route),
    },
];

const CARP: &str = "carp";

fn protocols() -> impl Iterator<Item = &'static str> {
    Protocol::ALL.into_iter().map(Protocol::name).chain([CARP])
}

/// The protocols that have counters, for messages.
pub(super) fn protocol_names() -> String {
    protocols().collect::<Vec<_>>().join(", ")
}

async fn netstat(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    match parse_netstat(words)? {
        Netstat::Statistics(wanted) => {
            let network = &context.services.network;
            let statistics = Statistics {
                network: network.statistics().await,
                carp: context.services.carp.report().await,
                drivers: network
                    .interfaces()
                    .into_iter()
                    .map(|status| (network.device_counters(status.index), status.name))
                    .filter(|(counters, _)| !counters.is_empty())
                    .map(|(counters, name)| (name, counters))
                    .collect(),
            };
            let text = match wanted {
                None => statistics.text(None),
                Some(name) if statistics.has(&name) => statistics.text(Some(&name)),
                Some(name) => return Err(CommandError::NoSuchProtocol(name)),
            };
            for line in text.lines() {
                context.output.line(format_args!("{line}")).await;
            }
        }
        Netstat::Interfaces => show_interfaces(context).await,
        Netstat::Routes => show_routes(context).await,
    }
    Ok(())
}

/// Everything that is counted.
struct Statistics {
    network: Snapshot,
    carp: CarpReport,
    /// Each interface's driver, by the interface's name.
    drivers: Vec<(String, Vec<(&'static str, u64)>)>,
}

impl Statistics {
    /// Whether there is a paragraph of this name.
    fn has(&self, name: &str) -> bool {
        protocols().any(|known| known == name)
            || self.drivers.iter().any(|(known, _)| known == name)
    }

    /// All paragraphs, or one; the one also shows drops that never happened.
    fn text(&self, wanted: Option<&str>) -> String {
        let mut text = String::new();
        let all = wanted.is_some();
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
        for (name, counters) in &self.drivers {
            if is_wanted(name) {
                write_driver(&mut text, name, counters, all);
            }
        }
        for protocol in Protocol::ALL {
            if is_wanted(protocol.name()) {
                // Writing to a string does not fail.
                let _ = self.network.write_protocol(&mut text, protocol, all);
            }
        }
        if is_wanted(CARP) {
            let _ = write_carp(&mut text, &self.carp, all);
        }
        text
    }
}

/// A driver's paragraph.
fn write_driver(text: &mut String, name: &str, counters: &[(&str, u64)], all: bool) {
    let _ = writeln!(text, "{name}:");
    for (what, count) in counters {
        if all || *count > 0 || !what.contains("dropped") {
            let _ = writeln!(text, "\t{count} {what}");
        }
    }
}

/// CARP's paragraph, in OpenBSD's words where it has them. `all` shows drops that never happened, too.
fn write_carp(out: &mut dyn Write, report: &CarpReport, all: bool) -> core::fmt::Result {
    let totals = report.totals();
    let carp::Counters {
        received,
        sent,
        send_errors,
        bow_outs_sent,
        adverts_left_to_master,
        announcements,
        became_master,
        split_brain,
        time_jumps,
        ..
    } = &totals;
    writeln!(out, "{CARP}:")?;
    writeln!(out, "\t{received} packets received (IPv4)")?;
    writeln!(out, "\t\t{} for none of our vhids", report.strays.received)?;
    for reason in carp::DropReason::ALL {
        let dropped = totals.dropped(reason);
        if all || dropped > 0 {
            writeln!(out, "\t\t{dropped} discarded {reason}")?;
        }
    }
    writeln!(
        out,
        "\t\t{adverts_left_to_master} left to the master to settle"
    )?;
    writeln!(out, "\t{sent} packets sent (IPv4)")?;
    writeln!(out, "\t\t{bow_outs_sent} of them bow-outs")?;
    writeln!(out, "\t\t{send_errors} send errors")?;
    writeln!(out, "\t{announcements} gratuitous ARP packets sent")?;
    writeln!(out, "\t{became_master} transitions to master")?;
    writeln!(out, "\t{split_brain} signs of a second master")?;
    writeln!(out, "\t{time_jumps} jumps of time")
}

async fn show_interfaces(context: &Context) {
    context
        .output
        .line(format_args!(
            "{:<8} {:>6} {:>10} {:>12} {:>7} {:>10} {:>12} {:>7}",
            "name", "mtu", "ipkts", "ibytes", "idrop", "opkts", "obytes", "odrop"
        ))
        .await;
    for status in context.services.network.interfaces() {
        let row = interface_row(&status.name, status.mtu_bytes, &status.counters);
        context.output.line(format_args!("{row}")).await;
    }
}

async fn show_routes(context: &Context) {
    let output = &context.output;
    output
        .line(format_args!(
            "{:<20} {:<16} {}",
            "destination", "gateway", "interface"
        ))
        .await;
    for route in context.services.network.routes() {
        let destination = if route.destination.length() == 0 {
            "default".into()
        } else {
            route.destination.to_string()
        };
        let gateway = route
            .gateway
            .map_or_else(|| "on link".into(), |gateway| gateway.to_string());
        output
            .line(format_args!(
                "{destination:<20} {gateway:<16} {}",
                route.interface
            ))
            .await;
    }
}

async fn arp(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let network = &context.services.network;
    match parse_arp(words)? {
        Arp::ShowAll => {
            for entry in network.arp_table().await {
                show_entry(context, &entry).await;
            }
        }
        Arp::Show(address) => {
            let table = network.arp_table().await;
            let entry = table.iter().find(|entry| entry.address == address);
            show_entry(context, entry.ok_or(CommandError::NoArpEntry(address))?).await;
        }
        Arp::Delete(address) if network.arp_delete(address).await => {
            context.output.line(format_args!("{address} deleted")).await;
        }
        Arp::Delete(address) => return Err(CommandError::NoArpEntry(address)),
        Arp::Flush => network.arp_flush().await,
    }
    Ok(())
}

async fn show_entry(context: &Context, entry: &ArpEntry) {
    let mac = entry
        .mac
        .map_or_else(|| "(incomplete)".into(), |mac| mac.to_string());
    let ArpEntry {
        address, interface, ..
    } = entry;
    context
        .output
        .line(format_args!("? ({address}) at {mac} on {interface}"))
        .await;
}

async fn route(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let network = &context.services.network;
    match parse_route(words)? {
        Route::Show => show_routes(context).await,
        Route::Add(address, length, gateway) => {
            network.add_route(prefix(address, length)?, gateway).await?;
        }
        Route::Delete(address, length) => network.delete_route(prefix(address, length)?).await?,
    }
    Ok(())
}

fn prefix(address: Ipv4Addr, length: u8) -> Result<Ipv4Prefix, CommandError> {
    Ok(Ipv4Prefix::new(address, length).ok_or(net::ConfigError::BadAddress)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::net::NetCounters;

    fn statistics() -> Statistics {
        let mut strays = carp::Counters::default();
        strays.received = 5;
        strays.count_drop(carp::DropReason::Ttl);
        let mut departed = carp::Counters::default();
        departed.received = 2;
        departed.adverts_left_to_master = 2;
        Statistics {
            network: Snapshot::default(),
            carp: CarpReport {
                interfaces: Vec::new(),
                demotions: Vec::new(),
                strays,
                departed,
            },
            drivers: alloc::vec![(
                "vtnet0".into(),
                NetCounters::TEXTS
                    .into_iter()
                    .zip([7; NetCounters::COUNT])
                    .collect()
            )],
        }
    }

    #[test]
    fn every_counter_of_the_driver_has_a_line() {
        let text = statistics().text(Some("vtnet0"));
        for what in NetCounters::TEXTS {
            assert!(
                text.contains(&alloc::format!("\t7 {what}\n")),
                "{what}: {text}"
            );
        }
        assert!(!text.contains("carp:"));
    }

    #[test]
    fn what_was_counted_before_a_vhid_was_known_or_by_one_that_is_gone_is_shown() {
        let text = statistics().text(None);
        for line in [
            "\t7 packets received (IPv4)\n",
            "\t\t5 for none of our vhids\n",
            "\t\t1 discarded for wrong TTL\n",
            "\t\t2 left to the master to settle\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(!text.contains("for bad checksum"), "did not happen");
        assert!(
            statistics()
                .text(Some(CARP))
                .contains("0 discarded for bad checksum")
        );
    }
}
