//! The whole crate on the executor: hosted nodes of four CPUs, connected by a cable in memory.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use executor::hosted::{Hosted, Options};
use executor::{CpuId, Node};
use net::*;

/// One end of a cable: a frame sent here is received by the other node, on a CPU that changes.
struct Cable {
    mac: MacAddress,
    peer: OnceLock<(Arc<Node>, Interface)>,
    sent: Mutex<u64>,
}

impl Cable {
    fn new(number: u8) -> Arc<Cable> {
        Arc::new(Cable {
            mac: MacAddress([2, 0, 0, 0, 0, number]),
            peer: OnceLock::new(),
            sent: Mutex::new(0),
        })
    }
}

impl Device for Cable {
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
        assert!(packet.headroom() >= config::DRIVER_HEADROOM_BYTES);
        let count = {
            let mut sent = self.sent.lock().unwrap();
            *sent += 1;
            *sent
        };
        let Some((node, interface)) = self.peer.get() else {
            return;
        };
        let cpu = CpuId((count % node.cpu_count() as u64) as u16);
        let (interface, packet) = (interface.clone(), Packet::copy_from(0, &packet).unwrap());
        node.spawn_on(
            cpu,
            "receive",
            move || async move { interface.input(packet) },
        )
        .detach();
    }

    fn statistics(&self) -> DeviceStatistics {
        DeviceStatistics {
            sent_packets: *self.sent.lock().unwrap(),
            ..Default::default()
        }
    }
}

struct Machine {
    hosted: Hosted,
    network: Network,
}

fn machine(cable: &Arc<Cable>, address: &'static str) -> (Machine, Interface) {
    let hosted = Hosted::start(Options {
        cpus: 4,
        ..Options::default()
    });
    let (device, sent) = (cable.clone(), cable.clone());
    let (network, interface) = hosted.block_on(move || async move {
        let network = Network::start(executor::current().node(), 1).await;
        let interface = network.attach("vtnet0", device).await.unwrap();
        network.set_up("vtnet0", true).await.unwrap();
        network
            .add_address("vtnet0", address.parse().unwrap())
            .await
            .unwrap();
        // Its announcement leaves before there is a peer to hear it: the tests count frames.
        while *sent.sent.lock().unwrap() == 0 {
            executor::sleep(Duration::from_millis(1)).await;
        }
        (network, interface)
    });
    (Machine { hosted, network }, interface)
}

fn connected() -> (Machine, Machine) {
    let cables = [Cable::new(1), Cable::new(2)];
    let (one, one_interface) = machine(&cables[0], "192.0.2.1/24");
    let (two, two_interface) = machine(&cables[1], "192.0.2.2/24");
    assert!(
        cables[0]
            .peer
            .set((two.hosted.node().clone(), two_interface))
            .is_ok()
    );
    assert!(
        cables[1]
            .peer
            .set((one.hosted.node().clone(), one_interface))
            .is_ok()
    );
    (one, two)
}

impl Machine {
    fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        body: impl FnOnce(Network) -> F + Send + 'static,
    ) -> T {
        let network = self.network.clone();
        self.hosted.block_on(move || body(network))
    }
}

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_cpu_pings_the_other_node_and_itself() {
    let (one, _two) = connected();
    let snapshot = one.run(|network| async move {
        for cpu in 0..4 {
            let here = network.clone();
            let pings = executor::spawn_on(CpuId(cpu), "pings", move || async move {
                let ping = Ping::open(&here).await.unwrap();
                for sequence in 0..20 {
                    let trip = ping.echo(PEER, sequence, 56, PATIENCE).await.unwrap();
                    assert_eq!((trip.reply.source, trip.reply.length), (PEER, 56));
                    let home = Ipv4Addr::LOCALHOST;
                    ping.echo(home, sequence, 1000, PATIENCE).await.unwrap();
                }
                ping.close().await;
            });
            pings.await;
        }
        network.statistics().await
    });
    assert_eq!(
        snapshot.events(Event::IcmpEchoReplyReceived),
        160,
        "{snapshot}"
    );
    assert_eq!(snapshot.dropped_total(), 0, "{snapshot}");
    assert_eq!(
        snapshot.events(Event::FrameReceived),
        snapshot.events(Event::FrameConsumed)
    );
}

#[test]
fn udp_echo_service_answers_and_ports_are_free_again_after_close() {
    let (one, two) = connected();
    two.run(|network| async move {
        executor::spawn("echo", async move { serve_udp_echo(&network, 7).await }).detach();
        executor::yield_now().await;
    });
    one.run(|network| async move {
        let remote = "192.0.2.2:7".parse().unwrap();
        let any = "0.0.0.0:5000".parse().unwrap();
        let handles: Vec<_> = (0..4)
            .map(|cpu| {
                let network = network.clone();
                executor::spawn_on(CpuId(cpu), "client", move || async move {
                    let any = "0.0.0.0:0".parse().unwrap();
                    let socket = UdpSocket::bind(&network, any).await.unwrap();
                    for round in 0..50u8 {
                        let data = [round; 200];
                        loop {
                            socket.send_to(&data, remote).unwrap();
                            let answer =
                                executor::timeout(Duration::from_millis(500), socket.recv_from());
                            if let Ok(answer) = answer.await {
                                assert_eq!((answer.remote, answer.payload()), (remote, &data[..]));
                                break;
                            }
                        }
                    }
                    socket.close().await;
                })
            })
            .collect();
        for handle in handles {
            handle.await;
        }
        let first = UdpSocket::bind(&network, any).await.unwrap();
        let second = UdpSocket::bind(&network, any).await;
        assert_eq!(second.err(), Some(ConfigError::PortInUse));
        first.close().await;
        UdpSocket::bind(&network, any).await.unwrap().close().await;
    });
}

#[test]
fn views_changes_and_the_carp_seam() {
    let (one, two) = connected();
    one.run(|network| async move {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::new(Mutex::new(Vec::new()));
        let (sink, event_sink) = (heard.clone(), events.clone());
        network
            .register_protocol(112, move |input| sink.lock().unwrap().push(input))
            .await;
        network
            .subscribe(move |event| event_sink.lock().unwrap().push(*event))
            .await;
        network
            .join_group("vtnet0", Ipv4Addr::new(224, 0, 0, 18))
            .await
            .unwrap();
        let gateway = PEER;
        network
            .add_route(Ipv4Prefix::DEFAULT, gateway)
            .await
            .unwrap();
        let ping = Ping::open(&network).await.unwrap();
        ping.echo(PEER, 1, 0, PATIENCE).await.unwrap();
        let entries = network.arp_table().await;
        assert_eq!((entries.len(), entries[0].address), (1, PEER));
        assert!(network.arp_delete(PEER).await);
        assert!(!network.arp_delete(PEER).await);
        assert_eq!(network.routes().len(), 3);
        let interfaces = network.interfaces();
        assert_eq!(
            (interfaces.len(), interfaces[1].name.as_str()),
            (2, "vtnet0")
        );
        assert!(interfaces[1].up && interfaces[1].counters.sent_packets > 0);
        assert_eq!(
            network.set_up("em0", true).await,
            Err(ConfigError::NoSuchInterface)
        );
        let interface = interfaces[1].index;
        let entry = VirtualAddress {
            interface,
            address: "192.0.2.10/24".parse().unwrap(),
            vhid: 1,
            mac: virtual_mac(1),
            master: false,
        };
        network.set_virtual(entry).await.unwrap();
        assert_eq!(
            network.announce(interface, 1),
            Err(DropReason::SendVirtualBackup)
        );
        network.set_master(interface, 1, true).await.unwrap();
        for cpu in 0..4 {
            let network = network.clone();
            let announced = executor::run_on(CpuId(cpu), move |_| {
                network.interfaces()[1].virtual_addresses[0].master
            });
            assert!(announced.await, "complete means on every CPU");
        }
        network.announce(interface, 1).unwrap();
        let raw = RawIpv4 {
            protocol: 112,
            ttl: 255,
            tos: 0x10,
            dont_fragment: true,
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(224, 0, 0, 18),
            payload: &[1; 36],
        };
        network.send_from_virtual(interface, 1, &raw).unwrap();
        assert!(
            heard.lock().unwrap().is_empty(),
            "multicasts are not looped back"
        );
        network.set_up("vtnet0", false).await.unwrap();
        for _ in 0..1000 {
            let down = NetworkEvent::LinkChange {
                interface,
                up: false,
            };
            if events.lock().unwrap().contains(&down) {
                return;
            }
            executor::sleep(Duration::from_millis(1)).await;
        }
        panic!("no link event");
    });
    two.run(|network| async move {
        for _ in 0..1000 {
            let snapshot = network.statistics().await;
            // The advert: this node listens to no such group.
            if snapshot.drops(DropReason::IpNotForUs) == 1 {
                return;
            }
            executor::sleep(Duration::from_millis(1)).await;
        }
        panic!("the advert did not arrive");
    });
}

/// Unanswered neighbours: the ARP thread's timer repeats the requests, for a packet of CPU 0 (which no
/// message tells the thread of) as for one of another CPU.
#[test]
fn the_arp_timer_repeats_requests() {
    let (one, _two) = connected();
    one.run(|network| async move {
        let ping_nobody = |cpu: u8| {
            let network = network.clone();
            executor::spawn_on(CpuId(cpu.into()), "ping", move || async move {
                let ping = Ping::open(&network).await.unwrap();
                // The ARP thread has looked at the new binding and sleeps without a deadline.
                executor::sleep(Duration::from_millis(20)).await;
                let nobody = Ipv4Addr::new(192, 0, 2, 90 + cpu);
                let patience = Duration::from_millis(1500);
                let lost = ping.echo(nobody, 1, 8, patience).await;
                assert_eq!(lost, Err(PingError::TimedOut));
                // Before the client closes: that would wake the ARP thread too.
                network.statistics().await.events(Event::ArpRequestSent)
            })
        };
        // At 0, 10, 30, 70, 150, 310, 630 and 1270 ms.
        assert_eq!(ping_nobody(0).await, 8);
        network.arp_flush().await;
        assert_eq!(ping_nobody(3).await, 16);
    });
}

/// A flow's CPU that does nothing for a while: what waits for it is bounded, the rest is counted.
#[test]
fn a_busy_cpu_gets_a_bounded_queue() {
    let cable = Cable::new(1);
    let (machine, interface) = machine(&cable, "192.0.2.1/24");
    let (from, to) = ([192, 0, 2, 2], [192, 0, 2, 1]);
    let flow = hash::Flow::Addresses {
        source: from.into(),
        destination: to.into(),
    };
    let owner = CpuId(flow.cpu(4));
    // A UDP header that promises more than there is.
    let mut frame = vec![0; 42];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&from);
    frame[30..34].copy_from_slice(&to);
    frame[38] = 0xff;
    const FRAMES: u64 = 3000;
    let snapshot = machine.run(move |network| async move {
        let release = Arc::new(OnceLock::new());
        let receiver = CpuId((owner.0 + 1) % 4);
        let (gate, stuck) = (release.clone(), Arc::new(OnceLock::new()));
        let reached = stuck.clone();
        let busy = executor::spawn_on(owner, "busy", move || async move {
            reached.set(()).unwrap();
            while gate.get().is_none() {
                std::thread::yield_now();
            }
        });
        let flood = executor::spawn_on(receiver, "flood", move || async move {
            while stuck.get().is_none() {
                executor::yield_now().await;
            }
            for _ in 0..FRAMES {
                interface.input(Packet::copy_from(0, &frame).unwrap());
            }
            release.set(()).unwrap();
        });
        flood.await;
        busy.await;
        loop {
            let snapshot = network.statistics().await;
            let counted = snapshot.dropped_total();
            if counted == FRAMES {
                return snapshot;
            }
            executor::sleep(Duration::from_millis(1)).await;
        }
    });
    let handled = u64::from(config::QUEUED_PACKETS);
    assert_eq!(snapshot.drops(DropReason::FrameQueueFull), FRAMES - handled);
    assert_eq!(snapshot.drops(DropReason::IpBadChecksum), handled);
}
