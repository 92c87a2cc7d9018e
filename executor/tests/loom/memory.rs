//! Remote frees, and zones.

use super::*;

/// Objects that are freed, in one allocation.
struct Objects(Box<[FreeNode]>);

// SAFETY: who may touch which node is what the model is about.
unsafe impl Send for Objects {}
// SAFETY: as above.
unsafe impl Sync for Objects {}

impl Objects {
    fn node(&self, number: usize) -> *mut FreeNode {
        std::ptr::from_ref(&self.0[number]).cast_mut()
    }

    /// Links `numbers` to a batch and gives it to `list`, as a freer does.
    fn push(&self, list: &RemoteList, numbers: std::ops::Range<usize>) {
        let last = self.node(numbers.start);
        // SAFETY: the nodes of this range are this freer's.
        unsafe {
            for number in numbers.clone().skip(1) {
                FreeNode::link(self.node(number), self.node(number - 1));
            }
            list.push(last, numbers.len() as u64);
        }
    }

    /// Takes what is on `list`, as the owner does; notes each object.
    fn take(&self, list: &RemoteList, taken: &mut [u32; 5]) {
        // SAFETY: the owner alone takes; what it takes is its own.
        unsafe {
            list.take_all(|last, count| {
                let number = (0..5).find(|number| self.node(*number) == last);
                let last = number.expect("a node");
                let mut node = self.node(last + count as usize - 1);
                for number in (last..last + count as usize).rev() {
                    assert_eq!(node, self.node(number), "the chain is whole");
                    taken[number] += 1;
                    if number != last {
                        node = FreeNode::next(node);
                    }
                }
                // It is free memory of the owner's now.
                FreeNode::link(self.node(last), std::ptr::null_mut());
            });
        }
    }
}

#[test]
fn traps_50_51_batches_of_remote_frees_reach_the_owner_whole_and_once() {
    check(&[Fault::TakeWithoutSwap, Fault::RelaxedPush], || {
        let list = Arc::new(RemoteList::new());
        let objects = Arc::new(Objects((0..5).map(|_| FreeNode::new()).collect()));
        let freers: Vec<_> = [0..2, 2..5]
            .into_iter()
            .map(|numbers| {
                let (list, objects) = (list.clone(), objects.clone());
                thread::spawn(move || objects.push(&list, numbers))
            })
            .collect();
        let mut taken = [0; 5];
        objects.take(&list, &mut taken);
        for freer in freers {
            freer.join().unwrap();
        }
        // Whatever the owner has missed is still there: nothing has to signal it.
        assert!(taken.iter().sum::<u32>() == 5 || !list.is_empty());
        objects.take(&list, &mut taken);
        assert_eq!(taken, [1; 5]);
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
