//! Routes, sources, classes of destinations and refused changes.

use super::*;
use crate::address::virtual_mac;
use crate::tables::{Change, ConfigError, Route};
use alloc::string::String;

const ETHERNET: InterfaceIndex = InterfaceIndex(1);
const SECOND: InterfaceIndex = InterfaceIndex(2);

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Ipv4Prefix {
    text.parse().unwrap()
}

/// Two Ethernet interfaces: 192.0.2.1/24 and 10.0.0.1/8, both up; vhid 7 is 192.0.2.10.
fn tables(master: bool) -> Tables {
    let mut tables = Tables::new();
    for (number, address) in [(1, "192.0.2.1/24"), (2, "10.0.0.1/8")] {
        let interface = InterfaceIndex(number);
        let name = alloc::format!("vtnet{}", number - 1);
        let mac = MacAddress([2, 0, 0, 0, 0, number as u8]);
        let attach = Change::Attach {
            name,
            mac,
            mtu_bytes: 1500,
            link: true,
        };
        tables.apply(&attach).unwrap();
        tables
            .apply(&Change::SetUp {
                interface,
                up: true,
            })
            .unwrap();
        tables
            .apply(&Change::AddAddress {
                interface,
                address: prefix(address),
            })
            .unwrap();
    }
    let entry = VirtualAddress {
        interface: ETHERNET,
        address: prefix("192.0.2.10/24"),
        vhid: 7,
        mac: virtual_mac(7),
        master,
    };
    tables.apply(&Change::SetVirtual(entry)).unwrap();
    tables
}

#[test]
fn destinations_are_classified() {
    let backup = tables(false);
    let table = [
        ("192.0.2.1", Destination::Ours),
        ("127.1.2.3", Destination::Ours),
        ("192.0.2.10", Destination::VirtualBackup),
        ("192.0.2.255", Destination::Broadcast),
        ("10.255.255.255", Destination::Broadcast),
        ("255.255.255.255", Destination::Broadcast),
        ("224.0.0.18", Destination::Multicast),
        ("192.0.2.2", Destination::Other),
    ];
    for (address, class) in table {
        assert_eq!(backup.classify(ip(address)), class, "{address}");
    }
    assert_eq!(tables(true).classify(ip("192.0.2.10")), Destination::Ours);
}

#[test]
fn the_longest_prefix_wins_and_connected_beats_static_of_equal_length() {
    let mut tables = tables(false);
    let routes = [
        ("default", "192.0.2.254"),
        ("10.1.0.0/16", "192.0.2.253"),
        ("10.0.0.0/8", "192.0.2.252"),
    ];
    for (destination, gateway) in routes {
        let route = Route {
            destination: prefix(destination),
            gateway: ip(gateway),
        };
        tables.apply(&Change::AddRoute(route)).unwrap();
    }
    let hop = |address: &str| {
        let hop = tables.route(ip(address)).unwrap();
        (hop.interface, hop.neighbor)
    };
    assert_eq!(hop("192.0.2.9"), (ETHERNET, ip("192.0.2.9")));
    assert_eq!(hop("10.2.0.1"), (SECOND, ip("10.2.0.1")));
    assert_eq!(hop("10.1.0.1"), (ETHERNET, ip("192.0.2.253")));
    assert_eq!(hop("8.8.8.8"), (ETHERNET, ip("192.0.2.254")));
}

#[test]
fn no_route_without_an_interface_that_is_up() {
    let mut tables = tables(false);
    assert_eq!(tables.route(ip("8.8.8.8")), Err(DropReason::NoRoute));
    tables
        .apply(&Change::SetUp {
            interface: SECOND,
            up: false,
        })
        .unwrap();
    assert_eq!(tables.route(ip("10.0.0.2")), Err(DropReason::NoRoute));
}

#[test]
fn a_virtual_address_is_never_selected_and_only_a_master_may_name_it() {
    for master in [false, true] {
        let tables = tables(master);
        let hop = tables.route(ip("192.0.2.77")).unwrap();
        assert_eq!(tables.select_source(hop), Ok(ip("192.0.2.1")));
        let expected = if master {
            Ok(())
        } else {
            Err(DropReason::SourceVirtualBackup)
        };
        assert_eq!(tables.check_source(ip("192.0.2.10")), expected);
    }
    assert_eq!(
        tables(true).check_source(ip("192.0.2.99")),
        Err(DropReason::SourceNotOurs)
    );
}

#[test]
fn changes_that_make_no_sense_are_refused_and_change_nothing() {
    let mut tables = tables(false);
    let interface = ETHERNET;
    let add = |text: &str| Change::AddAddress {
        interface,
        address: prefix(text),
    };
    let route = |destination: &str, gateway: &str| {
        Change::AddRoute(Route {
            destination: prefix(destination),
            gateway: ip(gateway),
        })
    };
    let table = [
        (add("0.0.0.0/0"), ConfigError::BadAddress),
        (add("224.0.0.1/24"), ConfigError::BadAddress),
        (add("192.0.2.255/24"), ConfigError::BadAddress),
        (add("192.0.2.0/24"), ConfigError::BadAddress),
        (add("192.0.2.10/24"), ConfigError::AddressInUse),
        (add("10.0.0.1/24"), ConfigError::AddressInUse),
        (
            route("default", "203.0.113.1"),
            ConfigError::GatewayUnreachable,
        ),
        (
            route("default", "192.0.2.1"),
            ConfigError::GatewayUnreachable,
        ),
        (
            Change::DeleteRoute {
                destination: prefix("default"),
            },
            ConfigError::NoSuchRoute,
        ),
        (
            Change::SetUp {
                interface: InterfaceIndex(9),
                up: true,
            },
            ConfigError::NoSuchInterface,
        ),
        (
            Change::SetMaster {
                interface,
                vhid: 8,
                master: true,
            },
            ConfigError::NoSuchVirtual,
        ),
        (
            Change::JoinGroup {
                interface,
                group: ip("10.0.0.1"),
            },
            ConfigError::BadAddress,
        ),
        (
            Change::Attach {
                name: String::from("vtnet0"),
                mac: virtual_mac(1),
                mtu_bytes: 1500,
                link: true,
            },
            ConfigError::InterfaceExists,
        ),
    ];
    for (change, error) in table {
        let before = alloc::format!("{tables:?}");
        assert_eq!(tables.apply(&change), Err(error), "{change:?}");
        assert_eq!(alloc::format!("{tables:?}"), before);
    }
}

#[test]
fn a_port_has_one_socket_per_address_and_a_wildcard_excludes_others() {
    let mut tables = tables(false);
    let bind = |socket, address: &str, port| {
        Change::Bind(Binding {
            socket: SocketId(socket),
            kind: BindingKind::Udp,
            address: ip(address),
            port,
            owner: 0,
        })
    };
    tables.apply(&bind(1, "192.0.2.1", 7)).unwrap();
    tables.apply(&bind(2, "192.0.2.10", 7)).unwrap();
    assert_eq!(
        tables.apply(&bind(3, "192.0.2.1", 7)),
        Err(ConfigError::PortInUse)
    );
    assert_eq!(
        tables.apply(&bind(3, "0.0.0.0", 7)),
        Err(ConfigError::PortInUse)
    );
    tables.apply(&bind(3, "0.0.0.0", 6)).unwrap();
    assert_eq!(
        tables.apply(&bind(4, "192.0.2.1", 6)),
        Err(ConfigError::PortInUse)
    );
    let found = |address: &str, port| {
        tables
            .binding(BindingKind::Udp, ip(address), port)
            .map(|found| found.socket.0)
    };
    assert_eq!(found("192.0.2.10", 7), Some(2));
    assert_eq!(found("192.0.2.77", 6), Some(3));
    assert_eq!(found("192.0.2.77", 7), None);
    assert_eq!(found("192.0.2.1", 8), None);
}
