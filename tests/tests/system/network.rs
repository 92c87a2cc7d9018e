//! Nodes on the virtual LAN: addresses, ping in both directions, counters.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tests::{COMMAND_LIMIT, Turn, boot_as, node, on_both, run};
use tools::client::{Client, Settings};
use tools::host;
use tools::lan::Lan;
use tools::node::{NodeKind, NodeSpec, node_mac};
use tools::qemu::Network;

on_both![
    two_nodes_ping_each_other,
    a_stack_that_is_not_ours_gets_its_answers
];

fn on(lan: &Lan, kind: NodeKind, name: &str, number: u8) -> NodeSpec {
    lan.add_port(name).unwrap();
    NodeSpec {
        networks: vec![(Network::Lan(lan.socket(name)), node_mac(number))],
        ..node(kind)
    }
}

fn two_nodes_ping_each_other(kind: NodeKind) {
    let _turn = Turn::take();
    let directory = host::socket_directory().unwrap();
    let lan = Lan::start(directory.path(), None).unwrap();
    let mut a = boot_as("a", &on(&lan, kind, "a", 1));
    let mut b = boot_as("b", &on(&lan, kind, "b", 2));
    let interface = kind.first_interface();
    run(&mut a, &format!("ifconfig {interface} 192.0.2.1/24 up"));
    run(&mut b, &format!("ifconfig {interface} 192.0.2.2/24 up"));
    for (node, peer) in [(&mut a, "192.0.2.2"), (&mut b, "192.0.2.1")] {
        let output = node
            .command(&format!("ping -c 3 {peer}"), COMMAND_LIMIT)
            .unwrap();
        assert!(
            output.contains("3 packets transmitted, 3 packets received"),
            "{output}"
        );
    }
    let table = run(&mut a, "arp -a");
    assert!(table.contains("192.0.2.2"), "{table}");
    let counters = run(&mut a, "netstat -s");
    assert!(!counters.trim().is_empty());
}

fn a_stack_that_is_not_ours_gets_its_answers(kind: NodeKind) {
    let _turn = Turn::take();
    let directory = host::socket_directory().unwrap();
    let lan = Lan::start(directory.path(), None).unwrap();
    let mut a = boot_as("a", &on(&lan, kind, "a", 1));
    let interface = kind.first_interface();
    run(&mut a, &format!("ifconfig {interface} 192.0.2.1/24 up"));
    let settings = Settings {
        address: (Ipv4Addr::new(192, 0, 2, 100), 24),
        mac: [2, 0, 0, 0, 0, 0xcc],
        target: Ipv4Addr::new(192, 0, 2, 1),
        interval: Duration::from_millis(1),
    };
    let start = Instant::now();
    let client = Client::start(lan.attach("client").unwrap(), settings).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let window = client.window(start + Duration::from_millis(500), Instant::now());
    assert!(window.sent > 500, "{window:?}");
    assert_eq!(window.lost, 0, "{window:?}");
}
