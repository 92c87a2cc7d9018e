//! What the register keeps of each paper and of each desk.

use super::super::ledger::BOUND_NS;
use super::plan::{DeskPlan, OfficePlan, Stage};

/// How many messages may pass a reader that stands in the line, where few are before it. One of another CPU stands there
/// when its request has come, behind what its CPU has sent before; a long time later it does.
const PASSED: i64 = 32;

/// Who hears the reply to a paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody waits for it.
    Nobody,
    Waits,
    HasHeard,
    HasLeft,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Paper {
    pub stage: Stage,
    pub caller: Caller,
    /// The CPU it was sent on, and its number among those of this CPU, this desk and this class.
    pub cpu: u16,
    pub number: u32,
    pub desk: usize,
    pub urgent: bool,
    /// Has been at more than one desk, and is in no order with those of the second.
    pub was_handed_on: bool,
    /// The how-manieth to be linked.
    pub arrival: i64,
    /// When its abort was asked for.
    pub asked_ns: Option<u64>,
}

/// A reader waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub since_ns: u64,
    /// When the next message after a long time was received, as the how-manieth: this reader's turn has come by then.
    pub base: Option<(u64, i64)>,
}

/// A desk.
#[derive(Debug)]
pub struct Desk {
    pub cpu: u16,
    pub capacity: Option<usize>,
    /// Every reader is a thread of this CPU.
    pub exact: bool,
    /// Readers get messages in order, each for itself.
    pub ordered: bool,
    pub plain: bool,
    /// Messages that were sent and are not received, those linked among them, and those of them that have priority.
    pub inside: usize,
    pub linked: usize,
    pub urgent: usize,
    pub arrived: i64,
    pub received: i64,
    /// By sending CPU and class: numbers sent and numbers arrived.
    pub lanes: Vec<(u32, u32)>,
    /// By reader, sending CPU and class: the number received last. Readers of this CPU are one.
    pub last: Vec<u32>,
    /// By reader.
    pub waiting: Vec<Option<Wait>>,
    pub cpus: usize,
}

impl Desk {
    pub fn new(office: &OfficePlan, plan: &DeskPlan, cpus: usize) -> Self {
        let readers = plan.near.len() + plan.far.len() + office.set.len();
        let steady = plan.far.iter().all(|(_, fickle)| !fickle);
        Self {
            cpu: office.cpu,
            capacity: plan.capacity,
            exact: plan.far.is_empty(),
            // What one fickle reader gives back, another one may get behind later ones.
            ordered: steady || readers == 1,
            plain: plan.plain,
            inside: 0,
            linked: 0,
            urgent: 0,
            arrived: 0,
            received: 0,
            lanes: vec![(0, 0); 2 * cpus],
            last: vec![0; 2 * cpus * (1 + plan.far.len())],
            waiting: vec![None; plan.near.len() + plan.far.len()],
            cpus,
        }
    }

    pub fn is_full(&self) -> bool {
        self.capacity
            .is_some_and(|capacity| self.inside >= capacity)
    }

    /// The last number that this reader has received of a paper's lane.
    pub fn last(&mut self, reader: usize, paper: &Paper) -> &mut u32 {
        &mut self.last
            [2 * (reader * self.cpus + usize::from(paper.cpu)) + usize::from(paper.urgent)]
    }

    /// A message was received: whether a reader waits whose turn was long ago.
    pub fn passes_one_over(&mut self, now_ns: u64) -> bool {
        let received = self.received;
        let is_long_ago = |past_ns| now_ns.saturating_sub(past_ns) > BOUND_NS;
        let mut waiting = self.waiting.iter_mut().flatten();
        waiting.any(|wait| {
            is_long_ago(wait.since_ns) && {
                let (base_ns, base) = *wait.base.get_or_insert((now_ns, received));
                // And time enough to run with the message that was its own.
                is_long_ago(base_ns) && received - base > PASSED
            }
        })
    }
}
