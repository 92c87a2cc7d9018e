//! The life of an ARP entry, at the nanosecond.

use super::*;

const SECOND_NS: u64 = 1_000_000_000;
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

fn key(last: u32) -> ArpKey {
    ArpKey {
        interface: InterfaceIndex(1),
        address: Ipv4Addr::from_bits(0x0a00_0000 + last),
    }
}

fn packet(byte: u8) -> Held {
    Held {
        packet: Packet::copy_from(0, &[byte]).unwrap(),
        source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
    }
}

fn bytes(queue: Queue) -> alloc::vec::Vec<u8> {
    queue.iter().map(|held| held.packet[0]).collect()
}

#[test]
fn packets_wait_in_order_and_leave_with_the_answer() {
    let mut cache = ArpCache::default();
    let first = cache.resolve(0, key(1), packet(1));
    assert!(first.ask && first.send.is_none());
    let second = cache.resolve(1, key(1), packet(2));
    assert!(!second.ask, "one request per second is enough");
    let learned = cache.learn(5, key(1), MAC, false).unwrap();
    assert_eq!(bytes(learned.released), [1, 2]);
    assert!(!learned.moved);
    let third = cache.resolve(6, key(1), packet(3));
    assert_eq!(third.send.map(|(mac, _)| mac), Some(MAC));
    assert_eq!(cache.next_deadline_ns(), None);
}

#[test]
fn requests_are_repeated_ever_more_slowly_and_given_up_after_ten() {
    let mut cache = ArpCache::default();
    let _ = cache.resolve(0, key(1), packet(1));
    let mut requests = 1;
    let mut now_ns = 0;
    let mut asked_ms = alloc::vec![0];
    let held = loop {
        now_ns = cache.next_deadline_ns().unwrap().max(now_ns);
        match cache.poll(now_ns) {
            Some((_, None)) => {
                requests += 1;
                asked_ms.push(now_ns / 1_000_000);
            }
            Some((_, Some(held))) => break held,
            None => panic!("a deadline with nothing to do"),
        }
        assert!(cache.poll(now_ns).is_none());
    };
    assert_eq!((requests, now_ns / 1_000_000), (config::ARP_TRIES, 4270));
    assert_eq!(asked_ms, [0, 10, 30, 70, 150, 310, 630, 1270, 2270, 3270]);
    assert_eq!(bytes(held), [1]);
    assert_eq!(cache.next_deadline_ns(), None);
    assert_eq!(cache.iter(0).count(), 0);
}

#[test]
fn the_queue_of_one_neighbor_keeps_the_newest() {
    let mut cache = ArpCache::default();
    for byte in 0..config::ARP_HELD_PACKETS as u8 {
        assert_eq!(cache.resolve(0, key(1), packet(byte)).dropped, None);
    }
    assert_eq!(
        cache.resolve(0, key(1), packet(99)).dropped,
        Some(DropReason::ArpQueueFull)
    );
    let released = bytes(cache.learn(0, key(1), MAC, false).unwrap().released);
    assert_eq!((released[0], released.len()), (1, config::ARP_HELD_PACKETS));
    assert_eq!(released.last(), Some(&99));
}

#[test]
fn a_stale_neighbor_is_used_and_asked_again_until_it_fails() {
    let mut cache = ArpCache::default();
    let _ = cache.learn(0, key(1), MAC, true).unwrap();
    let fresh = cache.resolve(config::ARP_REACHABLE_NS - 1, key(1), packet(1));
    assert!(fresh.send.is_some() && !fresh.ask);
    let mut now_ns = config::ARP_REACHABLE_NS;
    for _ in 0..config::ARP_TRIES {
        let stale = cache.resolve(now_ns, key(1), packet(1));
        assert!(stale.send.is_some() && stale.ask);
        assert!(!cache.resolve(now_ns + 1, key(1), packet(1)).ask);
        now_ns += SECOND_NS;
    }
    let failed = cache.resolve(now_ns, key(1), packet(1));
    assert!(failed.send.is_none() && failed.ask, "now it waits");
    assert_eq!(
        bytes(cache.learn(now_ns, key(1), MAC, false).unwrap().released),
        [1]
    );
    assert!(!cache.resolve(now_ns, key(1), packet(1)).ask, "fresh again");
}

#[test]
fn strangers_are_not_learned_unless_they_speak_to_us_and_moves_are_noticed() {
    let mut cache = ArpCache::default();
    assert!(cache.learn(0, key(1), MAC, false).is_none());
    assert!(!cache.learn(0, key(1), MAC, true).unwrap().moved);
    assert!(!cache.learn(1, key(1), MAC, false).unwrap().moved);
    assert!(
        cache
            .learn(2, key(1), MacAddress([2, 0, 0, 0, 0, 8]), false)
            .unwrap()
            .moved
    );
}

#[test]
fn a_full_table_loses_the_least_used_but_none_that_packets_wait_in() {
    let mut cache = ArpCache::default();
    let limit = config::ARP_ENTRIES as u32;
    for last in 0..limit {
        let _ = cache.learn(u64::from(last), key(last), MAC, true).unwrap();
    }
    let _ = cache.resolve(u64::from(limit), key(0), packet(1));
    let resolved = cache.resolve(u64::from(limit) + 1, key(limit), packet(1));
    assert_eq!(resolved.evicted, Some(key(1)), "0 was used later than 1");
    assert_eq!(cache.entries.len(), config::ARP_ENTRIES);

    let mut cache = ArpCache::default();
    for last in 0..limit {
        let _ = cache.resolve(0, key(last), packet(1));
    }
    assert_eq!(
        cache.resolve(0, key(limit), packet(1)).dropped,
        Some(DropReason::ArpTableFull)
    );
    assert!(cache.learn(0, key(limit), MAC, true).is_none());
}

#[test]
fn the_owner_answers_or_asks_for_other_cpus() {
    let mut cache = ArpCache::default();
    let answer = cache.ask(0, key(1), 3);
    assert!(answer.request && answer.mac.is_none());
    assert!(!cache.ask(1, key(1), 5).request, "one request for both");
    let asked_by = cache.learn(2, key(1), MAC, true).unwrap().asked_by;
    let cpus: alloc::vec::Vec<u16> = (0..8).filter(|&cpu| asked_by.contains(cpu)).collect();
    assert_eq!(cpus, [3, 5]);
    assert_eq!(cache.ask(3, key(1), 3).mac, Some(MAC));
    assert_eq!(
        cache.learn(4, key(1), MAC, true).unwrap().asked_by,
        CpuSet::default()
    );
}
