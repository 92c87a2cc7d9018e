//! The whole of CARP on real networks: two hosted nodes of two CPUs, their protocols, and a wire in memory.
//!
//! At advbase 0 and in real time. The simulation (`simulation.rs`) says what the state machine decides, at virtual
//! time; here is what every CPU's tables and the frames on the wire make of it. Nothing depends on how fast the host
//! is: each test waits for what must come to pass.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use carp::State;
use carp::service::{Carp, CarpStatus, Change};
use executor::hosted::{Hosted, Options};
use executor::{CpuId, Node};
use net::{Device, DeviceStatistics, Interface, MacAddress, Network, Packet, Ping, virtual_mac};

const VHID: u8 = 7;
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of the wire.
struct End {
    mac: MacAddress,
    peer: OnceLock<(Arc<Node>, Interface)>,
    cut: Arc<AtomicBool>,
    sent: AtomicU64,
    /// Frames sent from the virtual MAC address.
    sent_virtual: AtomicU64,
}

impl Device for End {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn mtu_bytes(&self) -> u16 {
        1500
    }

    fn link_up(&self) -> bool {
        true
    }

    fn transmit(&self, packet: Packet) {
        let count = self.sent.fetch_add(1, Ordering::Relaxed);
        if packet[6..12] == virtual_mac(VHID).0 {
            self.sent_virtual.fetch_add(1, Ordering::Relaxed);
        }
        if self.cut.load(Ordering::Relaxed) {
            return;
        }
        let Some((node, interface)) = self.peer.get() else {
            return;
        };
        // As with several receive queues: the CPU changes.
        let cpu = CpuId((count % node.cpu_count() as u64) as u16);
        let (interface, packet) = (interface.clone(), Packet::copy_from(16, &packet).unwrap());
        node.spawn_on(cpu, "receive", move || async move {
            interface.input(packet);
        })
        .detach();
    }

    fn statistics(&self) -> DeviceStatistics {
        DeviceStatistics::default()
    }
}

struct Machine {
    hosted: Hosted,
    network: Network,
    carp: Carp,
    end: Arc<End>,
}

impl Machine {
    fn start(number: u8, cut: &Arc<AtomicBool>) -> (Machine, Interface) {
        let hosted = Hosted::start(Options {
            cpus: 2,
            ..Options::default()
        });
        let end = Arc::new(End {
            mac: MacAddress([2, 0, 0, 0, 0, number]),
            peer: OnceLock::new(),
            cut: cut.clone(),
            sent: AtomicU64::new(0),
            sent_virtual: AtomicU64::new(0),
        });
        let device = end.clone();
        let (network, carp, interface) = hosted.block_on(move || async move {
            let network = Network::start(executor::current().node(), number.into()).await;
            let interface = network.attach("vtnet0", device).await.unwrap();
            let address = format!("192.0.2.{number}/24").parse().unwrap();
            network.add_address("vtnet0", address).await.unwrap();
            network.set_up("vtnet0", true).await.unwrap();
            let carp = carp::service::start(network.clone(), number.into()).await;
            carp.set_preempt(true);
            (network, carp, interface)
        });
        let machine = Machine {
            hosted,
            network,
            carp,
            end,
        };
        (machine, interface)
    }

    /// Runs something with its CARP, on its CPU 0.
    fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        body: impl FnOnce(Carp, Network) -> F + Send + 'static,
    ) -> T {
        let (carp, network) = (self.carp.clone(), self.network.clone());
        self.hosted.block_on(move || body(carp, network))
    }

    fn join(&self, advskew: u8) {
        let changes = vec![
            Change::Vhid(VHID),
            Change::Password("secret".into()),
            Change::Advbase(0),
            Change::Advskew(advskew),
            Change::Address(VIRTUAL, 24),
        ];
        self.run(|carp, _| async move { carp.configure("carp0", true, changes).await.unwrap() });
    }

    fn status(&self) -> CarpStatus {
        self.run(|carp, _| async move { carp.report().await.interfaces.remove(0) })
    }

    /// Whether it is master and its network answers for the virtual address.
    fn is_master(&self) -> bool {
        self.run(|carp, network| async move {
            let state = carp.report().await.interfaces[0].state;
            let interfaces = network.interfaces();
            let mut entries = interfaces
                .iter()
                .flat_map(|status| &status.virtual_addresses);
            entries.any(|entry| entry.master) && state == State::Master
        })
    }

    /// Asks the virtual address for an echo.
    fn pings(&self) -> bool {
        self.run(|_, network| async move {
            let ping = Ping::open(&network).await.unwrap();
            let sent = ping.send(VIRTUAL, 1, 56);
            let reply = executor::timeout(Duration::from_millis(200), ping.recv()).await;
            ping.close().await;
            sent.is_ok() && reply.is_ok()
        })
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Two nodes on one wire, the first preferred and master.
struct Lan {
    first: Machine,
    second: Machine,
    cut: Arc<AtomicBool>,
}

impl Lan {
    fn settled() -> Lan {
        let cut = Arc::new(AtomicBool::new(false));
        let (first, first_interface) = Machine::start(1, &cut);
        let (second, second_interface) = Machine::start(2, &cut);
        let connect = |from: &Machine, to: &Machine, interface| {
            assert!(
                from.end
                    .peer
                    .set((to.hosted.node().clone(), interface))
                    .is_ok()
            );
        };
        connect(&first, &second, second_interface);
        connect(&second, &first, first_interface);
        first.join(5);
        second.join(30);
        let lan = Lan { first, second, cut };
        lan.until_first_is_master("the election");
        lan
    }

    fn until_first_is_master(&self, what: &str) {
        until(what, || self.first.is_master() && !self.second.is_master());
    }
}

#[test]
fn the_preferred_node_is_elected_and_answers_alone() {
    let lan = Lan::settled();
    assert!(
        lan.second.pings(),
        "the backup reaches the address over the wire"
    );
    until("the backup knows its master", || {
        lan.second.status().master == Some(Ipv4Addr::new(192, 0, 2, 1))
    });
    // What a backup may not do is not only decided but seen: it is silent.
    let before = lan.second.end.sent_virtual.load(Ordering::Relaxed);
    let received = lan.second.status().counters.received;
    until("some more advertisements", || {
        lan.second.status().counters.received >= received + 3
    });
    if lan.second.status().counters.became_master == 0 {
        assert_eq!(before, 0);
        assert_eq!(lan.second.end.sent_virtual.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_dead_master_is_succeeded_and_preempts_when_it_is_back() {
    let lan = Lan::settled();
    lan.cut.store(true, Ordering::Relaxed);
    until("takeover", || lan.second.is_master());
    assert!(lan.second.pings(), "its own stack answers for the address");
    lan.cut.store(false, Ordering::Relaxed);
    lan.until_first_is_master("the return");
}

#[test]
fn an_orderly_stop_hands_over_by_bow_out() {
    let lan = Lan::settled();
    lan.first.run(|carp, _| async move { carp.stop().await });
    let report = lan.first.run(|carp, _| async move { carp.report().await });
    assert_eq!(report.departed.bow_outs_sent, 3);
    let left = lan.first.run(|_, network| async move {
        let interfaces = network.interfaces();
        interfaces
            .iter()
            .any(|status| !status.virtual_addresses.is_empty())
    });
    assert!(!left, "the network has forgotten the address");
    until("takeover", || lan.second.is_master());
    assert!(lan.first.pings(), "who left reaches the successor");
}
