//! Remote frees, and zones.

use super::*;

#[test]
fn remote_frees_reach_the_owner_exactly_once() {
    check(&[Fault::TakeWithoutSwap], || {
        let list = Arc::new(RemoteList::new());
        let freers: Vec<_> = (0..2)
            .map(|_| {
                let list = list.clone();
                thread::spawn(move || {
                    let node = Box::into_raw(Box::new(FreeNode::new()));
                    // SAFETY: the node was just boxed and is on no list.
                    unsafe { list.push(node) };
                })
            })
            .collect();
        let mut taken = Vec::new();
        // SAFETY: the node was just boxed and is on no list.
        unsafe { list.take_all(|node| taken.push(node)) };
        for freer in freers {
            freer.join().unwrap();
        }
        // SAFETY: the node was just boxed and is on no list.
        unsafe { list.take_all(|node| taken.push(node)) };
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 2);
        for node in taken {
            // SAFETY: boxed by the freer, taken off the list once.
            drop(unsafe { Box::from_raw(node) });
        }
    });
}

#[test]
fn a_zone_has_one_owner() {
    check(&[Fault::ClaimWithoutExchange], || {
        let words = vec![loom::sync::atomic::AtomicU64::new(0)];
        // SAFETY: the model never touches the memory behind the addresses.
        let zones = unsafe { ZoneMap::new(ZONE_SIZE as *mut u8, 2, Box::leak(words.into())) };
        zones.add(0, 2);
        let zones = Arc::new(zones);
        let claimers: Vec<_> = (0..2)
            .map(|_| {
                let zones = zones.clone();
                thread::spawn(move || zones.claim(1))
            })
            .collect();
        let claimed: Vec<_> = claimers
            .into_iter()
            .map(|claimer| claimer.join().unwrap())
            .collect();
        assert_ne!(
            claimed[0], claimed[1],
            "two owners, or none although two zones were free"
        );
    });
}
