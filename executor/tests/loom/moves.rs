//! A thread that moves, and who wakes it meanwhile: CPUs of their own, and interrupt handlers of the owner.

use super::*;

/// What names a CPU is its address alone.
static CPUS: [u8; 3] = [0; 3];

fn cpu(number: usize) -> *const u8 {
    &raw const CPUS[number]
}

fn number(cpu: *const u8) -> usize {
    (0..3)
        .find(|number| self::cpu(*number) == cpu)
        .expect("a CPU")
}

enum Message {
    Wake,
    Arrival,
}

/// A thread, and the rings by which the CPUs hear of it. What is in a loom cell is its owner's: loom looks.
struct Machine {
    owner: Owner<u8>,
    flags: Flags,
    mark: WakeMark,
    life: Life,
    /// The run queue of each CPU: whether the thread is on it.
    queues: [UnsafeCell<bool>; 2],
    listed: UnsafeCell<bool>,
    /// Where it still goes, the next one last.
    journey: UnsafeCell<Vec<usize>>,
    /// What its wakers have done before they woke it, and what its last poll saw of it.
    condition: [AtomicBool; 3],
    seen: UnsafeCell<[bool; 3]>,
    /// By sender and target.
    rings: [[Ring<Message>; 2]; 3],
}

// SAFETY: who may touch what is what the models are about.
unsafe impl Sync for Machine {}
// SAFETY: as above.
unsafe impl Send for Machine {}

impl Machine {
    /// The thread is on CPU 0, about to leave for the last of `journey`.
    fn new(mut journey: Vec<usize>) -> Arc<Self> {
        journey.reverse();
        Arc::new(Self {
            owner: Owner::new(cpu(0)),
            flags: Flags::new(flag::QUEUED | flag::MOVING),
            mark: WakeMark::new(),
            life: Life::new(1),
            queues: [UnsafeCell::new(true), UnsafeCell::new(false)],
            listed: UnsafeCell::new(true),
            journey: UnsafeCell::new(journey),
            condition: [(); 3].map(|()| AtomicBool::new(false)),
            seen: UnsafeCell::new([false; 3]),
            rings: [(); 3].map(|()| [Ring::new(), Ring::new()]),
        })
    }

    fn send(&self, from: usize, to: usize, message: Message) {
        // SAFETY: each CPU is a thread of the model, hence the one producer.
        let sent = unsafe { self.rings[from][to].push(message) };
        assert!(
            sent.is_ok(),
            "an arrival and one wake are the most there is"
        );
    }

    /// Puts a bit of the owner's, which must have been the other way.
    fn flip(cell: &UnsafeCell<bool>, to: bool, otherwise: &str) {
        // SAFETY: loom checks the access.
        let before = cell.with_mut(|bit| unsafe { std::mem::replace(&mut *bit, to) });
        assert_ne!(before, to, "{otherwise}");
    }

    fn queue(&self, here: usize) {
        if self.flags.enter_and_queue(|| ()) {
            // SAFETY: loom checks the access.
            let listed = self.listed.with(|listed| unsafe { *listed });
            assert!(listed, "queued by a CPU where it has not arrived");
            Self::flip(&self.queues[here], true, "queued twice");
        }
    }

    /// What a waker does on CPU `here`.
    fn wake(&self, here: usize) {
        self.condition[here].store(true, Ordering::Relaxed);
        if self.owner.is(cpu(here)) {
            // A waker is cloned and dropped.
            // SAFETY: this is the owner, and the thread does not end.
            unsafe {
                self.life.retain_at_home();
                self.life.release_at_home();
            }
            self.queue(here);
        } else if self.life.begin_wake(&self.mark) {
            self.send(here, number(self.owner.get()), Message::Wake);
        }
    }

    /// A poll point of CPU `here`, and the poll, if the thread has its turn. True: something was done.
    fn turn(&self, here: usize) -> bool {
        let mut busy = false;
        for ring in &self.rings {
            let mut messages = Vec::new();
            // SAFETY: each CPU is a thread of the model, hence the one consumer.
            let _ = unsafe { ring[here].take_batch(|_, message| messages.push(message)) };
            for message in messages {
                busy = true;
                self.handle(here, message);
            }
        }
        // SAFETY: loom checks the access.
        if !self.queues[here].with_mut(|queued| unsafe { std::mem::take(&mut *queued) }) {
            return busy;
        }
        assert!(self.owner.is(cpu(here)), "trap 74: it runs on its owner");
        assert!(self.flags.are(flag::QUEUED));
        self.flags.clear(flag::QUEUED);
        if self.flags.are(flag::MOVING) {
            self.flags.clear(flag::MOVING);
            // SAFETY: loom checks the access.
            let target = self.journey.with_mut(|journey| unsafe { (*journey).pop() });
            let target = target.expect("somewhere to go");
            Self::flip(&self.listed, false, "gone already");
            self.owner.hand_over(&self.flags, cpu(target), || {
                self.send(here, target, Message::Arrival);
            });
            return true;
        }
        self.seen.with_mut(|seen| {
            let now = [0, 1, 2].map(|waker| self.condition[waker].load(Ordering::Relaxed));
            // SAFETY: loom checks the access.
            unsafe { *seen = now }
        });
        // SAFETY: loom checks the access.
        if self
            .journey
            .with(|journey| unsafe { !(*journey).is_empty() })
        {
            self.flags.set(flag::MOVING);
            self.queue(here);
        }
        true
    }

    fn handle(&self, here: usize, message: Message) {
        match message {
            Message::Arrival => {
                Self::flip(&self.listed, true, "there already");
                self.flags.clear(flag::IN_TRANSIT);
                self.queue(here);
            }
            Message::Wake => match self.owner.woken(cpu(here), &self.mark, || self.queue(here)) {
                Ok(()) => assert!(!self.life.release(), "it has not ended"),
                Err(owner) => self.send(here, number(owner), Message::Wake),
            },
        }
    }

    /// When everybody else has ended: what is left to do is done, and then nothing may be missing.
    fn settle(&self, owner: usize, woken: [bool; 3]) {
        while self.turn(0) | self.turn(1) {}
        assert!(self.owner.is(cpu(owner)), "it came where it wanted to go");
        // SAFETY: loom checks the access.
        let seen = self.seen.with(|seen| unsafe { *seen });
        assert_eq!(seen, woken, "the last poll came before a wake");
        assert_eq!(self.flags.get(), 0, "it waits");
    }
}

/// The thread goes on `journey`, and both CPUs wake it meanwhile; CPU 1 has so many turns, CPU 0 two.
fn moves_and_is_woken_by_both(faults: &[Fault], journey: &'static [usize], turns: u32) {
    check(faults, move || {
        let machine = Machine::new(journey.to_vec());
        let theirs = machine.clone();
        let target = thread::spawn(move || {
            theirs.wake(1);
            for _ in 0..turns {
                theirs.turn(1);
            }
        });
        machine.turn(0);
        machine.wake(0);
        machine.turn(0);
        target.join().unwrap();
        machine.settle(journey[journey.len() - 1], [true, true, false]);
    });
}

#[test]
fn trap_20_a_thread_that_moves_is_woken_by_both_cpus_and_queued_by_its_owner() {
    let faults = [
        Fault::RelaxedOwner,
        Fault::MoveUnmarked,
        Fault::ArrivalBeforeOwner,
        Fault::WakeLeftBehind,
    ];
    moves_and_is_woken_by_both(&faults, &[1], 1);
}

#[test]
fn trap_20_a_thread_that_comes_back_is_woken_by_both_cpus_and_queued_by_its_owner() {
    // It arrives, is polled, and leaves again.
    let faults = [Fault::RelaxedOwner, Fault::ArrivalBeforeOwner];
    moves_and_is_woken_by_both(&faults, &[1, 0], 3);
}

#[test]
fn trap_20_a_wake_from_a_third_cpu_follows_a_thread_that_moves() {
    check(
        &[
            Fault::RelaxedOwner,
            Fault::ArrivalBeforeOwner,
            Fault::WakeLeftBehind,
        ],
        || {
            let machine = Machine::new(vec![1]);
            let theirs = machine.clone();
            let target = thread::spawn(move || theirs.turn(1));
            let theirs = machine.clone();
            let waker = thread::spawn(move || theirs.wake(2));
            machine.turn(0);
            machine.turn(0);
            target.join().unwrap();
            waker.join().unwrap();
            machine.settle(1, [false, false, true]);
        },
    );
}

#[test]
fn an_interrupt_handler_that_wakes_what_its_cpu_wakes_queues_it_once() {
    check(&[Fault::LookBeforeSection], || {
        // Who has it runs, with nobody coming in between: a handler as a whole, a thread in its critical sections.
        let cpu = loom::sync::Mutex::new(());
        let shared = Arc::new((Flags::new(0), UnsafeCell::new(0), cpu));
        // SAFETY: as with Machine.
        struct Shared(Arc<(Flags, UnsafeCell<u32>, loom::sync::Mutex<()>)>);
        unsafe impl Send for Shared {}
        let push = |pushed: &UnsafeCell<u32>| {
            // SAFETY: loom checks the access.
            pushed.with_mut(|pushed| unsafe { *pushed += 1 });
        };
        let theirs = Shared(shared.clone());
        let handler = thread::spawn(move || {
            let theirs = theirs;
            let (flags, pushed, cpu) = &*theirs.0;
            let _runs = cpu.lock().unwrap();
            if flags.enter_and_queue(|| ()) {
                push(pushed);
            }
        });
        let (flags, pushed, cpu) = &*shared;
        let mut section = None;
        if flags.enter_and_queue(|| section = Some(cpu.lock().unwrap())) {
            push(pushed);
        }
        drop(section);
        handler.join().unwrap();
        // SAFETY: loom checks the access.
        assert_eq!(pushed.with(|pushed| unsafe { *pushed }), 1);
    });
}
