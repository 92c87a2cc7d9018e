//! Elections between services on a LAN that is a vector: real timers, no network.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use core::net::Ipv4Addr;

use executor::hosted::{Hosted, Options};
use executor::{now_ns, sleep};
use net::{ConfigError, DropReason, InterfaceIndex, Ipv4Prefix, Packet, RawIpv4, VirtualAddress};

use super::Change::*;
use super::*;

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

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// Makes an interface with a vhid and an address, at advbase 0.
async fn create(carp: &Carp, name: &str, vhid: u8, advskew: u8, address: Ipv4Addr) {
    let changes = vec![
        Vhid(vhid),
        Password("x".into()),
        Advbase(0),
        Advskew(advskew),
        Address(address, 24),
    ];
    carp.configure(name, true, changes).await.unwrap();
}

async fn state(carp: &Carp) -> crate::State {
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
        create(carp, "carp0", 7, skew, VIRTUAL).await;
    }
    let [(_, first), (_, second)] = &nodes;
    until("the faster is master, the slower backup", async || {
        state(first).await == crate::State::Master && state(second).await == crate::State::Backup
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
            state(&second).await == crate::State::Master
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
        let set = async |changes| first.configure("carp0", false, changes).await.unwrap();
        set(vec![Demote("disk".into(), 20)]).await;
        until("the less demoted is master", async || {
            state(&second).await == crate::State::Master
                && state(&first).await == crate::State::Backup
        })
        .await;
        // A reason outlives the state it caused, and an orderly stop.
        set(vec![Down]).await;
        set(vec![Up]).await;
        let report = first.report().await.interfaces.remove(0);
        assert_eq!(report.demotions, [("disk".into(), 20)]);
        set(vec![Demote("disk".into(), 0)]).await;
        until("the faster preempts again", async || {
            state(&first).await == crate::State::Master
                && state(&second).await == crate::State::Backup
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
            state(&second).await == crate::State::Master
        })
        .await;
        first_lan.wire.cut.set(false);
        until("one is left", async || {
            state(&second).await == crate::State::Backup
                && state(&first).await == crate::State::Master
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
        until("INIT", async || state(&first).await == crate::State::Init).await;
        assert!(!first_lan.answers());
        until("the other is master", async || {
            state(&second).await == crate::State::Master
        })
        .await;
        first_lan.up.set(true);
        first_lan.sink()(Input::NetworkChanged);
        until("back", async || state(&first).await == crate::State::Backup).await;
    });
}

#[test]
fn preempt_takes_over_from_a_slower_master() {
    on_a_node(|| async {
        let [(_, first), (_, second)] = two_nodes().await;
        let hand_over = vec![State(WantedState::Backup)];
        first.configure("carp0", false, hand_over).await.unwrap();
        until("handed over", async || {
            state(&second).await == crate::State::Master
        })
        .await;
        first.set_preempt(true);
        until("taken back", async || {
            state(&first).await == crate::State::Master
        })
        .await;
    });
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    on_a_node(|| async {
        let carp = start(FakeLan::new(&Rc::default(), 0), 1).await;
        let refused = async |name, create, changes, needle| {
            let error = carp.configure(name, create, changes).await.unwrap_err();
            assert!(error.to_string().contains(needle), "{needle}: {error}");
        };
        refused("carp0", false, vec![Up], "`ifconfig carp0 create`").await;
        refused("vtnet9", true, vec![], "only carp interfaces").await;
        let long = vec![Password("01234567890123456789".into())];
        refused("carp0", true, long, "at most 19").await;
        let error = carp.destroy("carp0").await.unwrap_err();
        assert_eq!(error, CarpError::NoSuchInterface("carp0".into()));
        assert!(carp.report().await.interfaces.is_empty());

        let elsewhere = vec![Vhid(3), Address(Ipv4Addr::new(198, 51, 100, 1), 24)];
        carp.configure("carp0", true, elsewhere).await.unwrap();
        let report = carp.report().await.interfaces.remove(0);
        assert_eq!(
            (report.state, report.parent),
            (crate::State::Init, None),
            "no subnet of ours"
        );
        let force = vec![State(WantedState::Master)];
        refused("carp0", false, force, "takes no part yet").await;
        create(&carp, "carp1", 4, 0, Ipv4Addr::new(192, 0, 2, 9)).await;
        carp.configure("carp2", true, vec![]).await.unwrap();
        refused("carp0", true, vec![], "exists already").await;
        let nowhere = vec![RemoveAddress(Ipv4Addr::new(192, 0, 2, 77))];
        refused("carp0", false, nowhere, "no address 192.0.2.77").await;
        let taken = vec![Vhid(4), Address(VIRTUAL, 24)];
        refused("carp2", false, taken, "has vhid 4").await;
        let untouched = carp.report().await.interfaces.remove(2);
        assert_eq!((untouched.vhid, untouched.addresses), (None, vec![]));
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
            crate::DropReason::Ttl,
            crate::DropReason::Length,
            crate::DropReason::Checksum,
        ] {
            assert_eq!(strays.dropped(reason), 1, "{reason:?}");
        }
    });
}

/// Has the first vhid master, and a second one beside it that is master, too, at a slow pace.
async fn two_vhids() -> (FakeLan, Carp) {
    let lan = FakeLan::new(&Rc::default(), 0);
    let carp = start(lan.clone(), 1).await;
    create(&carp, "carp0", 7, 4, VIRTUAL).await;
    create(&carp, "carp1", 8, 1, Ipv4Addr::new(192, 0, 2, 11)).await;
    until("both are masters", async || {
        let interfaces = carp.report().await.interfaces;
        interfaces.iter().all(|i| i.state == crate::State::Master)
    })
    .await;
    (lan, carp)
}

#[test]
fn while_one_vhid_bows_out_the_others_advertise() {
    on_a_node(|| async {
        let (lan, carp) = two_vhids().await;
        let sent = async || carp.report().await.interfaces.pop().unwrap().counters.sent;
        let before = sent().await;
        let leaving = {
            let carp = carp.clone();
            executor::spawn("destroy", async move { carp.destroy("carp0").await })
        };
        // Its name is free at once; it answers for its address until it has said all its bow-outs.
        until("the name is free", async || {
            carp.report().await.interfaces.len() == 1
        })
        .await;
        assert!(
            lan.virtuals
                .borrow()
                .iter()
                .any(|v| v.vhid == 7 && v.master)
        );
        leaving.await.unwrap();
        assert!(lan.virtuals.borrow().iter().all(|v| v.vhid == 8));
        // Three bow-outs last 40 ms; vhid 8 advertises every 4 ms.
        assert!(sent().await >= before + 3, "the other was held up");
        let report = carp.report().await;
        assert_eq!(report.departed.bow_outs_sent, 3);
        assert!(report.totals().sent > report.departed.sent);
    });
}

#[test]
fn a_change_of_the_vhid_bows_out_as_the_old_one_before_it_begins_as_the_new() {
    on_a_node(|| async {
        let (lan, carp) = two_vhids().await;
        carp.configure("carp0", false, vec![Vhid(9)]).await.unwrap();
        assert_eq!(carp.report().await.departed.bow_outs_sent, 3);
        let vhids: Vec<u8> = lan.virtuals.borrow().iter().map(|v| v.vhid).collect();
        assert_eq!(vhids, [8, 9]);
        until("master again", async || {
            state(&carp).await == crate::State::Master
        })
        .await;
    });
}

#[test]
fn what_a_leaving_vhid_has_is_given_to_another_when_it_has_left() {
    on_a_node(|| async {
        let (lan, carp) = two_vhids().await;
        let other = carp.clone();
        let leaving = executor::spawn("destroy", async move { other.destroy("carp0").await });
        until("it leaves", async || {
            carp.report().await.interfaces.len() == 1
        })
        .await;
        create(&carp, "carp2", 7, 4, VIRTUAL).await;
        assert_eq!(carp.report().await.departed.bow_outs_sent, 3);
        leaving.await.unwrap();
        assert!(lan.virtuals.borrow().iter().any(|v| v.vhid == 7));
    });
}

#[test]
fn a_node_that_is_demoted_hands_over_and_its_later_vhids_are_demoted_too() {
    on_a_node(|| async {
        let [(_, first), (_, second)] = two_nodes().await;
        first.demote("upkeep", 100).await.unwrap();
        until("handed over", async || {
            state(&second).await == crate::State::Master
        })
        .await;
        create(&first, "carp1", 8, 4, Ipv4Addr::new(192, 0, 2, 11)).await;
        let report = first.report().await;
        let upkeep = vec![("upkeep".into(), 100)];
        assert_eq!(report.demotions, upkeep);
        for interface in report.interfaces {
            assert_eq!(interface.demotions, upkeep, "{}", interface.name);
        }
        // The interface's own word of the same name goes before the node's, until it is taken back.
        let set = async |weight| {
            let changes = vec![Demote("upkeep".into(), weight)];
            first.configure("carp1", false, changes).await.unwrap();
            let interface = first.report().await.interfaces.remove(1);
            interface.demotions[0].1
        };
        assert_eq!(set(3).await, 3);
        first.demote("upkeep", 50).await.unwrap();
        assert_eq!(first.report().await.interfaces[1].demotions[0].1, 3);
        assert_eq!(set(0).await, 50);
        first.demote("upkeep", 0).await.unwrap();
        let report = first.report().await;
        assert!(report.demotions.is_empty() && report.interfaces[1].demotions.is_empty());
        let own = first.demote(crate::demotion::SEND_ERRORS, 1).await;
        assert_eq!(own, Err(CarpError::OwnReason));
    });
}
