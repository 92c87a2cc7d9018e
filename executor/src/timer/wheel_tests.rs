//! The wheel alone: time is a number, and what is right is what an ordered map does.

use super::*;
use alloc::{collections::BTreeMap, vec::Vec};

/// Miri runs the same tests, with fewer of everything.
const MANY: u32 = if cfg!(miri) { 500 } else { 100_000 };

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Of any magnitude below 2^`bits`: small ones are as likely as large ones.
    fn spread(&mut self, bits: u64) -> u64 {
        self.next() >> (64 - self.below(bits) - 1)
    }
}

/// A wheel beside a map from (deadline, creation) that does the same, slowly. The values are the orders of creation.
struct Twins {
    now_ns: u64,
    wheel: Wheel<u64>,
    map: BTreeMap<(u64, u64), Key>,
    created: u64,
    gone: Vec<Key>,
}

impl Twins {
    fn new(now_ns: u64) -> Self {
        let mut wheel = Wheel::new();
        assert!(wheel.pop_due(now_ns).is_none());
        Self {
            now_ns,
            wheel,
            map: BTreeMap::new(),
            created: 0,
            gone: Vec::new(),
        }
    }

    fn insert(&mut self, deadline_ns: u64) {
        self.created += 1;
        // The time as a poll knows it may be that of its begin.
        let poll_ns = self.now_ns.saturating_sub(self.created % 64);
        let key = self.wheel.insert(poll_ns, deadline_ns, self.created);
        self.map.insert((deadline_ns, self.created), key);
    }

    fn any(&self, random: &mut Random) -> Option<(u64, u64)> {
        let some = random.below(self.map.len().max(1) as u64) as usize;
        self.map.keys().nth(some).copied()
    }

    fn cancel(&mut self, timer: (u64, u64)) {
        let key = self.map.remove(&timer).expect("it waits");
        assert_eq!(self.wheel.remove(key), Some(timer.1));
        self.gone.push(key);
    }

    fn reset(&mut self, timer: (u64, u64), deadline_ns: u64) {
        let key = self.map.remove(&timer).expect("it waits");
        self.created += 1;
        *self.wheel.value(key).expect("it waits") = self.created;
        let new = self.wheel.reset(self.now_ns, key, deadline_ns);
        self.map
            .insert((deadline_ns, self.created), new.expect("it waits"));
        self.gone.push(key);
    }

    /// Fires what is due at `now_ns`.
    fn fire(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        loop {
            let first = self.map.first_key_value().map(|(timer, _)| *timer);
            let due = first.filter(|(deadline_ns, _)| *deadline_ns <= now_ns);
            assert_eq!(self.wheel.pop_due(now_ns), due, "at {now_ns}");
            let Some(timer) = due else {
                break;
            };
            self.gone.extend(self.map.remove(&timer));
        }
        self.check_next();
        assert!(self.wheel.next_ns() > now_ns || self.map.is_empty());
    }

    fn check_next(&mut self) {
        let earliest_ns = self.map.keys().next().map_or(u64::MAX, |timer| timer.0);
        let next_ns = self.wheel.next_ns();
        assert!(next_ns <= earliest_ns);
        if self.map.len() <= CHUNK {
            assert_eq!(next_ns, earliest_ns, "few timers, so it is exact");
        }
        assert_eq!(self.wheel.is_empty(), self.map.is_empty());
    }
}

/// `bits` is the magnitude of waits and of steps of the clock.
fn random_twins(seed: u64, begins_ns: u64, bits: u64, crowd: u64) {
    let mut random = Random(seed);
    let mut twins = Twins::new(begins_ns);
    for _ in 0..MANY / 10 {
        let wait_ns = random.spread(bits);
        let deadline_ns = (twins.now_ns.saturating_add(1 + wait_ns)).min(u64::MAX - 1);
        let some = twins.any(&mut random);
        match random.below(10) {
            0..4 if (twins.map.len() as u64) < crowd => twins.insert(deadline_ns),
            4 => {
                // The same deadline as another.
                let deadline_ns = some.map_or(deadline_ns, |timer| timer.0);
                twins.insert(deadline_ns);
            }
            5 => some.into_iter().for_each(|timer| twins.cancel(timer)),
            6 => {
                let first = twins.map.keys().next().copied();
                first.into_iter().for_each(|timer| twins.cancel(timer));
            }
            7 => some
                .into_iter()
                .for_each(|timer| twins.reset(timer, deadline_ns)),
            8 => {
                let now_ns = twins.now_ns.saturating_add(random.spread(bits));
                twins.fire(now_ns.min(u64::MAX - 1));
            }
            // As a CPU that sleeps.
            _ => {
                let next_ns = twins.wheel.next_ns().max(twins.now_ns);
                twins.fire(next_ns.min(u64::MAX - 1));
            }
        }
        twins.check_next();
        for key in twins.gone.drain(..) {
            assert_eq!(twins.wheel.remove(key), None, "it is gone");
        }
    }
    twins.fire(u64::MAX);
    assert!(twins.map.is_empty() && twins.wheel.is_empty());
}

#[test]
fn timers_fire_in_the_order_of_deadline_and_creation() {
    for seed in 0..8 {
        // From nanoseconds to hours.
        for bits in [3, 12, 24, 44] {
            random_twins(seed, seed << 30, bits, 30);
            random_twins(seed, seed << 30, bits, 3000);
        }
    }
}

#[test]
fn levels_begin_and_time_ends_without_a_jolt() {
    for seed in 0..4 {
        for level in 1..LEVELS as u32 {
            let border_ns = 1u64 << (level * DIGIT);
            random_twins(seed, border_ns.saturating_sub(40), 8, 100);
        }
        random_twins(seed, u64::MAX - (1 << 20), 16, 1000);
        random_twins(seed, 0, 64, 1000);
    }
}

#[test]
fn equal_deadlines_wait_in_line_wherever_they_were_when_they_came() {
    let deadline_ns = 0x1234_5678_9abc;
    let mut twins = Twins::new(0);
    // The later half of the way each time, so that all levels take part.
    while twins.now_ns < deadline_ns {
        for _ in 0..CHUNK + 3 {
            twins.insert(deadline_ns);
            twins.insert(deadline_ns + 1);
        }
        // Between the present and all that there is.
        twins.insert(twins.now_ns + 1);
        twins.fire(deadline_ns - (deadline_ns - twins.now_ns) / 2);
    }
    assert!(twins.map.keys().all(|timer| timer.0 == deadline_ns + 1));
    twins.fire(deadline_ns + 1);
    assert!(twins.map.is_empty());
}

#[test]
fn a_deadline_that_has_passed_is_due_at_once() {
    let mut wheel = Wheel::new();
    assert_eq!(wheel.pop_due(1_000_000), None);
    wheel.insert(1_000_000, 1_000_000, 'a');
    wheel.insert(1_000_000, 7, 'b');
    let c = wheel.insert(1_000_000, 5_000_000, 'c');
    wheel.reset(1_000_000, c, 0);
    assert_eq!(wheel.next_ns(), 1_000_000);
    let order: Vec<_> = core::iter::from_fn(|| wheel.pop_due(1_000_000)).collect();
    assert_eq!(
        order,
        [(1_000_000, 'a'), (1_000_000, 'b'), (1_000_000, 'c')]
    );
}

#[test]
fn a_timer_can_be_cancelled_in_every_state() {
    let (now_ns, deadline_ns) = (5, 1 << 30);
    // Far away, after it has moved, when it is sorted, and when it is due.
    let states: [fn(&mut Wheel<u32>); 4] = [
        |_| (),
        |wheel| assert_eq!(wheel.pop_due((1 << 30) - 500), None),
        |wheel| assert!(wheel.next_ns() > 5),
        |wheel| assert_eq!(wheel.pop_due(1 << 30), Some((1 << 30, 0))),
    ];
    for state in states {
        for others in [1, 2 * CHUNK as u32] {
            let mut wheel = Wheel::new();
            let keys: Vec<_> = (0..others + 2)
                .map(|value| wheel.insert(now_ns, deadline_ns + u64::from(value / 2), value))
                .collect();
            state(&mut wheel);
            for (value, key) in keys.iter().enumerate().skip(1).step_by(2) {
                assert_eq!(wheel.remove(*key), Some(value as u32));
                assert_eq!(wheel.remove(*key), None, "twice");
                assert_eq!(wheel.value(*key), None);
                assert_eq!(wheel.reset(now_ns, *key, 0), None);
            }
            while let Some((_, value)) = wheel.pop_due(u64::MAX) {
                assert_eq!(value % 2, 0, "{value} was cancelled");
            }
            assert_eq!(wheel.next_ns(), u64::MAX);
        }
    }
}

#[test]
fn a_key_of_a_room_that_is_used_again_means_nothing() {
    let mut wheel = Wheel::new();
    let old = wheel.insert(0, 100, "old");
    assert_eq!(wheel.pop_due(100), Some((100, "old")));
    let new = wheel.insert(100, 100_000, "new");
    assert_eq!(old.room, new.room);
    assert_eq!(wheel.remove(old), None);
    assert_eq!(wheel.value(old), None);
    assert_eq!(wheel.reset(100, old, 0), None);
    let newer = wheel.reset(100, new, 200_000).expect("it waits");
    assert_eq!(wheel.remove(new), None, "it was reset");
    assert_eq!(wheel.remove(newer), Some("new"));
}

#[test]
fn memory_is_that_of_the_most_timers_at_a_time() {
    const WAITING: u32 = 200;
    // In all slots, and all in one.
    for (soonest_ns, bits, slots) in [(0, 40, LEVELS * SLOTS), (1 << 41, 1, 1)] {
        let mut random = Random(1);
        let mut wheel = Wheel::new();
        let mut deadline_ns = || soonest_ns + random.spread(bits);
        let mut keys: Vec<_> = (0..WAITING)
            .map(|_| wheel.insert(0, deadline_ns(), ()))
            .collect();
        let mut random = Random(2);
        // The clock stands: nothing goes by itself.
        for _ in 0..MANY {
            let some = random.below(WAITING.into()) as usize;
            assert_eq!(wheel.remove(keys[some]), Some(()));
            keys[some] = wheel.insert(0, deadline_ns(), ());
            let some = random.below(WAITING.into()) as usize;
            let later = wheel.reset(0, keys[some], deadline_ns());
            keys[some] = later.expect("it waits");
        }
        assert_eq!(wheel.timers.rooms(), WAITING as usize);
        // At most three records for each timer, and in each slot as many as fit into a chunk, in two.
        let limit = (3 * WAITING as usize).div_ceil(CHUNK) + 2 * slots;
        assert!(wheel.chunks.rooms() <= limit, "{}", wheel.chunks.rooms());
        for key in keys {
            assert_eq!(wheel.remove(key), Some(()));
        }
        assert!(wheel.is_empty());
    }
}

#[test]
fn what_is_left_in_slots_that_nobody_comes_to_any_more_is_used_before_there_is_more() {
    let mut wheel = Wheel::new();
    let few = CHUNK as u64;
    // A crowd in each of many slots, of which one timer stays: records of the others are all over the wheel.
    for slot in 1..SLOTS as u64 {
        let keys: Vec<_> = (0..100 * few)
            .map(|n| wheel.insert(0, (slot << 40) + n, n))
            .collect();
        for key in &keys[1..] {
            assert!(wheel.remove(*key).is_some());
        }
    }
    // One crowd, twice, and a chunk for each slot; in blocks that double.
    let most = 2 * (2 * 100 + 2 * SLOTS);
    assert!(wheel.chunks.rooms() <= most, "{}", wheel.chunks.rooms());
    let fired = core::iter::from_fn(|| wheel.pop_due(u64::MAX));
    assert!(fired.eq((1..SLOTS as u64).map(|slot| (slot << 40, 0))));
    assert_eq!(wheel.chunks.taken() + wheel.timers.taken(), 0);
}

#[test]
fn chunks_are_used_again_however_they_were_left() {
    let mut wheel = Wheel::new();
    let mut round = |deadline_ns, end: &dyn Fn(&mut Wheel<u32>, Vec<Key>)| {
        let keys = (0..10 * CHUNK as u32)
            .map(|n| wheel.insert(0, deadline_ns + u64::from(n) / 100, n))
            .collect();
        end(&mut wheel, keys);
        assert!(wheel.is_empty());
        wheel.chunks.rooms()
    };
    let cancel = |wheel: &mut Wheel<u32>, keys: Vec<Key>| {
        for key in keys {
            assert!(wheel.remove(key).is_some());
        }
    };
    let fire = |wheel: &mut Wheel<u32>, keys: Vec<Key>| {
        let fired = core::iter::from_fn(|| wheel.pop_due(u64::MAX)).count();
        assert_eq!(fired, keys.len());
    };
    round(1 << 40, &cancel);
    let chunks = round(2 << 40, &fire);
    for n in 3..20 {
        round(n << 40, &cancel);
        assert_eq!(round(n << 40, &fire), chunks);
    }
}

/// Steps for each of `timers` timers, which `work` makes and does away with.
fn steps_each(timers: u32, work: impl FnOnce(&mut Wheel<u32>, u32)) -> u64 {
    let mut wheel = Wheel::new();
    work(&mut wheel, timers);
    assert!(wheel.is_empty());
    wheel.steps.div_ceil(u64::from(timers))
}

#[test]
fn what_an_operation_costs_does_not_depend_on_how_many_timers_there_are() {
    // In order and cancelled in order, on a CPU that goes to sleep each time.
    let time_outs = |wheel: &mut Wheel<u32>, timers: u32| {
        let keys: Vec<_> = (0..timers)
            .map(|n| wheel.insert(n.into(), 1_000_000_000 + u64::from(n) * 1000, n))
            .collect();
        for (n, key) in keys.into_iter().enumerate() {
            assert_eq!(wheel.remove(key), Some(n as u32));
            wheel.next_ns();
        }
    };
    let random_cancel = |wheel: &mut Wheel<u32>, timers: u32| {
        let mut random = Random(2);
        let mut keys: Vec<_> = (0..timers)
            .map(|n| wheel.insert(0, random.below(10_000_000_000), n))
            .collect();
        while !keys.is_empty() {
            let some = random.below(keys.len() as u64) as usize;
            assert!(wheel.remove(keys.swap_remove(some)).is_some());
        }
    };
    let at_once = |wheel: &mut Wheel<u32>, timers: u32| {
        for n in 0..timers {
            wheel.insert(0, 123_456_789_012, n);
        }
        for n in 0..timers {
            assert_eq!(wheel.pop_due(u64::MAX), Some((123_456_789_012, n)));
        }
    };
    let fire = |wheel: &mut Wheel<u32>, timers: u32| {
        let mut random = Random(3);
        for n in 0..timers {
            wheel.insert(0, random.below(10_000_000_000), n);
        }
        while !wheel.is_empty() {
            let now_ns = wheel.next_ns();
            while wheel.pop_due(now_ns).is_some() {}
        }
    };
    type Work = fn(&mut Wheel<u32>, u32);
    let works: [(&str, u64, Work); 4] = [
        ("time-outs", 6, time_outs),
        ("cancelled", 6, random_cancel),
        ("fired at once", 2 * LEVELS as u64, at_once),
        ("fired", 2 * LEVELS as u64, fire),
    ];
    for (name, limit, work) in works {
        for timers in [100, 1000, 10_000, 100_000] {
            let steps = steps_each(timers.min(MANY), work);
            assert!(steps <= limit, "{name}, {timers}: {steps} steps each");
        }
    }
}

#[test]
fn a_sleeping_cpu_wakes_for_nothing_only_to_move_a_crowd_whose_first_was_cancelled() {
    let wakes_for_nothing = |timers: usize, cancelled: usize| {
        let mut random = Random(4);
        let mut wheel = Wheel::new();
        let mut keys: Vec<_> = (0..timers)
            .map(|_| 0x1234_5678_9abc + random.below(1000))
            .map(|deadline_ns| (deadline_ns, wheel.insert(0, deadline_ns, ())))
            .collect();
        keys.sort_by_key(|(deadline_ns, _)| *deadline_ns);
        for (_, key) in &keys[..cancelled] {
            assert_eq!(wheel.remove(*key), Some(()));
        }
        let mut wakes = 0;
        while !wheel.is_empty() {
            let now_ns = wheel.next_ns();
            wakes += u32::from(wheel.pop_due(now_ns).is_none());
            while wheel.pop_due(now_ns).is_some() {}
            assert!(wheel.next_ns() > now_ns, "it would sleep no time at all");
        }
        wakes
    };
    assert_eq!(wakes_for_nothing(CHUNK, CHUNK / 2), 0);
    assert_eq!(wakes_for_nothing(2 * CHUNK, CHUNK), 0);
    assert_eq!(wakes_for_nothing(MANY as usize / 10, 0), 0);
    let wakes = wakes_for_nothing(MANY as usize / 10, 20);
    assert!((1..LEVELS as u32).contains(&wakes), "{wakes}");
}
