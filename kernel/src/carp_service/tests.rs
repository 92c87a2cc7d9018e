//! Elections between services on a LAN that is a vector: real timers, no network.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use carp::State;
use executor::hosted::{Hosted, Options};
use executor::{now_ns, sleep};
use net::{ConfigError, DropReason, RawIpv4, VirtualAddress};

use super::lan::Parent;
use super::*;
use crate::commands::arguments::{Arguments, words_of};
use crate::commands::syntax::ifconfig::{self, Request as Line};

type Sink = Rc<dyn Fn(Input)>;

/// What the nodes of a test share: a wire that can be cut.
#[derive(Default)]
struct Wire {
    sinks: RefCell<Vec<Sink>>,
    cut: Cell<bool>,
}

/// A node's network.
#[derive(Clone)]
struct FakeLan {
    wire: Rc<Wire>,
    number: usize,
    virtuals: Rc<RefCell<Vec<VirtualAddress>>>,
    up: Rc<Cell<bool>>,
    announcements: Rc<Cell<u32>>,
}

const PARENT: InterfaceIndex = InterfaceIndex(1);

impl FakeLan {
    fn new(wire: &Rc<Wire>, number: usize) -> Self {
        Self {
            wire: wire.clone(),
            number,
            virtuals: Rc::default(),
            up: Rc::new(Cell::new(true)),
            announcements: Rc::default(),
        }
    }

    /// Whether the network would answer for the virtual address.
    fn answers(&self) -> bool {
        self.virtuals.borrow().iter().any(|address| address.master)
    }

    fn sink(&self) -> Sink {
        self.wire.sinks.borrow()[self.number].clone()
    }
}

impl Lan for FakeLan {
    async fn listen(&self, sink: impl Fn(Input) + Clone + Send + Sync + 'static) {
        self.wire
            .sinks
            .borrow_mut()
            .insert(self.number, Rc::new(sink));
    }

    async fn parents(&self) -> Vec<Parent> {
        let own = Ipv4Addr::new(192, 0, 2, self.number as u8 + 1);
        vec![Parent {
            index: PARENT,
            name: "vtnet0".into(),
            addresses: vec![Ipv4Prefix::new(own, 24).unwrap()],
            up: self.up.get(),
            link: true,
        }]
    }

    async fn join(&self, _: &Parent, group: Ipv4Addr) {
        assert_eq!(group, Ipv4Addr::new(224, 0, 0, 18));
    }

    async fn set_virtual(&self, address: VirtualAddress) -> Result<(), ConfigError> {
        self.remove_virtual(address).await;
        self.virtuals.borrow_mut().push(address);
        Ok(())
    }

    async fn remove_virtual(&self, address: VirtualAddress) {
        let same = |old: &VirtualAddress| old.address.address() == address.address.address();
        self.virtuals.borrow_mut().retain(|old| !same(old));
    }

    async fn set_master(&self, _: InterfaceIndex, vhid: u8, master: bool) {
        for address in self.virtuals.borrow_mut().iter_mut() {
            if address.vhid == vhid {
                address.master = master;
            }
        }
    }

    fn announce(&self, _: InterfaceIndex, _: u8) -> Result<(), DropReason> {
        assert!(
            self.answers(),
            "announced an address that does not answer yet"
        );
        self.announcements.set(self.announcements.get() + 1);
        Ok(())
    }

    fn send(
        &self,
        _: InterfaceIndex,
        _: Option<u8>,
        packet: RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        for (number, sink) in self.wire.sinks.borrow().iter().enumerate() {
            if number != self.number && !self.wire.cut.get() {
                sink(Input::Advert {
                    interface: PARENT,
                    source: packet.source,
                    ttl: packet.ttl,
                    packet: Packet::copy_from(0, packet.payload).unwrap(),
                });
            }
        }
        Ok(())
    }
}

/// Runs an `ifconfig` line.
async fn configure(carp: &Carp, line: &str) -> Result<(), CarpError> {
    match ifconfig::parse(Arguments::new(&words_of(line))).unwrap() {
        Line::Configure {
            name,
            create,
            changes,
        } => carp.configure(&name, create, changes).await,
        Line::Destroy(name) => carp.destroy(&name).await,
        other => panic!("{other:?} changes nothing"),
    }
}

async fn state(carp: &Carp) -> State {
    carp.report().await.interfaces[0].state
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline_ns = now_ns() + 5_000_000_000;
    while !condition().await {
        assert!(now_ns() < deadline_ns, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn on_a_node<F: Future<Output = ()> + 'static>(test: fn() -> F) {
    Hosted::start(Options::default()).block_on(test);
}

/// Two nodes with one vhid; the first is faster. Returns when the first is master.
async fn two_nodes() -> [(FakeLan, Carp); 2] {
    let wire = Rc::new(Wire::default());
    let [first, second] = [0, 1].map(|number| FakeLan::new(&wire, number));
    let nodes = [
        (first.clone(), start(first, 0).await),
        (second.clone(), start(second, 1).await),
    ];
    for ((_, carp), skew) in nodes.iter().zip([4, 10]) {
        let line = "ifconfig carp0 create vhid 7 pass x advbase 0 192.0.2.10/24 advskew";
        configure(carp, &alloc::format!("{line} {skew}"))
            .await
            .unwrap();
    }
    let [(_, first), (_, second)] = &nodes;
    until("the faster is master, the slower backup", async || {
        state(first).await == State::Master && state(second).await == State::Backup
    })
    .await;
    nodes
}

#[test]
fn the_faster_of_two_is_master_and_the_network_knows() {
    on_a_node(|| async {
        let [(first_lan, _), (second_lan, second)] = two_nodes().await;
        assert!(first_lan.answers() && !second_lan.answers());
        assert!(first_lan.announcements.get() > 0);
        let report = second.report().await.interfaces.remove(0);
        assert_eq!(report.master, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(report.parent.as_deref(), Some("vtnet0"));
        assert_eq!(report.source, Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert!(report.addresses[0].1, "active");
    });
}

#[test]
fn an_orderly_stop_hands_over_before_the_master_down_time() {
    on_a_node(|| async {
        let [(first_lan, first), (second_lan, second)] = two_nodes().await;
        first.stop().await;
        assert!(!first_lan.answers() && first_lan.virtuals.borrow().is_empty());
        until("the other took over", async || {
            state(&second).await == State::Master
        })
        .await;
        assert!(second_lan.answers());
    });
}

#[test]
fn a_demoted_master_hands_over_and_takes_back_when_the_reason_is_gone() {
    on_a_node(|| async {
        let [(_, first), (_, second)] = two_nodes().await;
        first.set_preempt(true);
        second.set_preempt(true);
        configure(&first, "ifconfig carp0 demote disk 20")
            .await
            .unwrap();
        until("the less demoted is master", async || {
            state(&second).await == State::Master && state(&first).await == State::Backup
        })
        .await;
        // A reason outlives the state it caused, and an orderly stop.
        configure(&first, "ifconfig carp0 down").await.unwrap();
        configure(&first, "ifconfig carp0 up").await.unwrap();
        let report = first.report().await.interfaces.remove(0);
        assert_eq!(report.demotions, [("disk".into(), 20)]);
        configure(&first, "ifconfig carp0 demote disk 0")
            .await
            .unwrap();
        until("the faster preempts again", async || {
            state(&first).await == State::Master && state(&second).await == State::Backup
        })
        .await;
        assert!(first.report().await.interfaces[0].demotions.is_empty());
    });
}

#[test]
fn a_cut_makes_two_masters_and_its_healing_one() {
    on_a_node(|| async {
        let [(first_lan, first), (second_lan, second)] = two_nodes().await;
        first_lan.wire.cut.set(true);
        until("both are masters", async || {
            state(&second).await == State::Master
        })
        .await;
        first_lan.wire.cut.set(false);
        until("one is left", async || {
            state(&second).await == State::Backup && state(&first).await == State::Master
        })
        .await;
        assert!(first_lan.answers() && !second_lan.answers());
    });
}

#[test]
fn a_parent_that_goes_down_takes_the_vhid_to_init_and_back() {
    on_a_node(|| async {
        let [(first_lan, first), (_, second)] = two_nodes().await;
        first_lan.up.set(false);
        first_lan.sink()(Input::NetworkChanged);
        until("INIT", async || state(&first).await == State::Init).await;
        assert!(!first_lan.answers());
        until("the other is master", async || {
            state(&second).await == State::Master
        })
        .await;
        first_lan.up.set(true);
        first_lan.sink()(Input::NetworkChanged);
        until("back", async || state(&first).await == State::Backup).await;
    });
}

#[test]
fn preempt_takes_over_from_a_slower_master() {
    on_a_node(|| async {
        let [(_, first), (_, second)] = two_nodes().await;
        configure(&first, "ifconfig carp0 state backup")
            .await
            .unwrap();
        until("handed over", async || {
            state(&second).await == State::Master
        })
        .await;
        first.set_preempt(true);
        until("taken back", async || state(&first).await == State::Master).await;
    });
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    on_a_node(|| async {
        let carp = start(FakeLan::new(&Rc::default(), 0), 1).await;
        for (line, needle) in [
            ("ifconfig carp0 up", "`ifconfig carp0 create`"),
            ("ifconfig vtnet9 create", "only carp interfaces"),
            (
                "ifconfig carp0 create pass 01234567890123456789",
                "at most 19",
            ),
            ("ifconfig carp0 destroy", "no interface carp0"),
        ] {
            let error = configure(&carp, line).await.unwrap_err().to_string();
            assert!(error.contains(needle), "{line}: {error}");
        }
        assert!(carp.report().await.interfaces.is_empty());
        configure(&carp, "ifconfig carp0 create vhid 3 198.51.100.1/24")
            .await
            .unwrap();
        let report = carp.report().await.interfaces.remove(0);
        assert_eq!(
            (report.state, report.parent),
            (State::Init, None),
            "no subnet of ours"
        );
        configure(&carp, "ifconfig carp1 create vhid 4 192.0.2.9/24")
            .await
            .unwrap();
        configure(&carp, "ifconfig carp2 create").await.unwrap();
        for (line, needle) in [
            ("ifconfig carp0 create", "exists already"),
            ("ifconfig carp0 -alias 192.0.2.77", "no address 192.0.2.77"),
            ("ifconfig carp2 state master", "takes no part yet"),
            ("ifconfig carp2 vhid 4 192.0.2.9/24", "has vhid 4"),
        ] {
            let error = configure(&carp, line).await.unwrap_err().to_string();
            assert!(error.contains(needle), "{line}: {error}");
        }
    });
}

#[test]
fn strays_are_counted_by_reason() {
    on_a_node(|| async {
        let lan = FakeLan::new(&Rc::default(), 0);
        let carp = start(lan.clone(), 1).await;
        let advert = |ttl, bytes: &[u8]| Input::Advert {
            interface: PARENT,
            source: Ipv4Addr::new(192, 0, 2, 66),
            ttl,
            packet: Packet::copy_from(0, bytes).unwrap(),
        };
        lan.sink()(advert(254, &[0x21; 36]));
        lan.sink()(advert(255, &[0x21; 35]));
        lan.sink()(advert(255, &[0x21; 36]));
        let strays = carp.report().await.strays;
        assert_eq!(strays.received, 3);
        for reason in [
            carp::DropReason::Ttl,
            carp::DropReason::Length,
            carp::DropReason::Checksum,
        ] {
            assert_eq!(strays.dropped(reason), 1, "{reason:?}");
        }
    });
}
