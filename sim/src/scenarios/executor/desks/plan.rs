//! Which desks a program has, and what its threads do with them.

use crate::random::Random;

/// How a paper is to be served.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// At once, if the desk and the queue allow it.
    AtOnce,
    /// By the reader who gets it, which now and then takes its time.
    Soon,
    /// By a thread of that CPU, which waits so long for an abort.
    UntilAborted { cpu: u16, limit_ns: u64 },
    /// At another desk, where a thread waits so long for an abort.
    HandOn { desk: usize, limit_ns: u64 },
    /// The reader takes back what is queued behind it.
    TakeBack,
}

/// How far a paper has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    New,
    Sent,
    Linked,
    Received,
    HandedOn,
    Replied,
    Refused,
}

/// What a caller does about its errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Waits for the reply.
    Wait,
    /// Asks to abort when it has come so far, and waits for the reply.
    Abort(Stage),
    /// Walks away when it has come so far.
    Leave(Stage),
}

/// How a message that nobody waits for is sent.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Post,
    Try,
    /// Waits for room each time; one who is impatient walks away from every other wait.
    InTurn {
        impatient: bool,
    },
}

/// One thing that a thread does with a desk.
#[derive(Clone, Copy, Debug)]
pub enum DeskOperation {
    /// Calls it. `polled`: the call has left its waker before the caller does anything else.
    Ask {
        desk: usize,
        manner: Manner,
        then: Then,
        polled: bool,
        refusable: bool,
    },
    /// Posts to it, so many times.
    Hand {
        desk: usize,
        manner: Manner,
        count: u32,
        urgent: bool,
        way: Way,
    },
    /// Sends so many errands at once, with replies to a port of its own; or to two that are in a set. `leaves`: half of the
    /// replies find nobody.
    Letters {
        desk: usize,
        manner: Manner,
        count: u32,
        set: bool,
        leaves: bool,
    },
}

/// A port and its readers; true for one of these means that it loses patience.
#[derive(Clone, Debug)]
pub struct DeskPlan {
    pub capacity: Option<usize>,
    pub at_once: bool,
    pub near: Vec<bool>,
    /// With their CPUs.
    pub far: Vec<(u16, bool)>,
    /// Nothing overtakes anything here, and nothing is taken back or handed on to it: who is let in is known then.
    pub plain: bool,
}

impl DeskPlan {
    /// Whether one of its own readers waits for whatever comes.
    pub fn has_steady_reader(&self) -> bool {
        let far = self.far.iter().map(|(_, fickle)| fickle);
        far.chain(&self.near).any(|fickle| !fickle)
    }
}

/// The desks of one CPU, and the readers of the set of them.
#[derive(Clone, Debug)]
pub struct OfficePlan {
    pub cpu: u16,
    pub desks: Vec<DeskPlan>,
    pub set: Vec<bool>,
}

impl OfficePlan {
    /// Invents one for `cpus` CPUs.
    pub fn invent(random: &mut Random, cpus: usize) -> Self {
        let readers = |random: &mut Random, most: u64| -> Vec<bool> {
            let count = random.below(most + 1);
            (0..count).map(|_| random.below(2) == 0).collect()
        };
        let set = if random.below(2) == 0 {
            Vec::new()
        } else {
            readers(random, 2)
        };
        let desk = |random: &mut Random| {
            let mut near = readers(random, 2);
            let far: Vec<(u16, bool)> = readers(random, 2)
                .into_iter()
                .map(|fickle| (random.below(cpus as u64) as u16, fickle))
                .collect();
            if near.is_empty() && far.is_empty() && set.is_empty() {
                near.push(false);
            }
            let capacity = *random.pick(&[None, None, Some(0), Some(1), Some(2), Some(7)]);
            // A message that a far reader has refused comes back behind those that were answered meanwhile.
            let at_once = random.below(2) == 0 && far.iter().all(|(_, fickle)| !fickle);
            let plain = capacity.is_some() && far.is_empty() && random.below(2) == 0;
            DeskPlan {
                capacity,
                at_once,
                near,
                far,
                plain,
            }
        };
        let count = random.within(1..=3);
        Self {
            cpu: random.below(cpus as u64) as u16,
            desks: (0..count).map(|_| desk(random)).collect(),
            set: set.clone(),
        }
    }
}

const US: u64 = 1_000;

impl DeskOperation {
    /// Invents one.
    pub fn invent(random: &mut Random, cpus: usize, desks: &[&DeskPlan]) -> Self {
        let desk = random.below(desks.len() as u64) as usize;
        let stage = |random: &mut Random| {
            *random.pick(&[Stage::Sent, Stage::Linked, Stage::Received, Stage::Replied])
        };
        let then = match random.below(5) {
            0 | 1 => Then::Wait,
            2 | 3 => Then::Abort(stage(random)),
            _ => Then::Leave(stage(random)),
        };
        // Long enough for an abort that comes too late to be noticed.
        let limit_ns = if then == Then::Wait {
            100 * US
        } else {
            30_000 * US
        };
        let plain = desks[desk].plain;
        let manner = match random.below(8) {
            0 | 1 => Manner::AtOnce,
            2 | 3 => Manner::Soon,
            4 | 5 => Manner::UntilAborted {
                cpu: random.below(cpus as u64) as u16,
                limit_ns,
            },
            6 => {
                let to = random.below(desks.len() as u64) as usize;
                if desks[to].plain {
                    Manner::Soon
                } else {
                    Manner::HandOn { desk: to, limit_ns }
                }
            }
            _ if plain => Manner::Soon,
            _ => Manner::TakeBack,
        };
        let kind = random.below(8);
        match kind {
            0..=3 => Self::Ask {
                desk,
                manner,
                then,
                polled: random.below(2) == 0,
                refusable: random.below(4) == 0,
            },
            4..=6 => Self::Hand {
                desk,
                manner,
                count: *random.pick(&[1, 2, 5, 5, 10, 300]),
                urgent: !plain && random.below(3) == 0,
                way: *random.pick(&[
                    Way::Post,
                    Way::Try,
                    Way::InTurn { impatient: false },
                    Way::InTurn { impatient: true },
                ]),
            },
            _ => Self::Letters {
                desk,
                manner,
                count: *random.pick(&[1, 3, 10]),
                set: random.below(2) == 0,
                leaves: random.below(4) == 0,
            },
        }
    }

    /// How many papers it writes.
    pub fn papers(&self) -> usize {
        match self {
            Self::Ask { .. } => 1,
            Self::Hand { count, .. } | Self::Letters { count, .. } => *count as usize,
        }
    }

    /// Whether it needs a thread that stays on its CPU: reply ports and sets do.
    pub fn stays(&self) -> bool {
        matches!(self, Self::Letters { .. })
    }
}
