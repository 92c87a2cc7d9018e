//! One run of one seed: plan, play, look at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use executor::trace::ClassMask;

use crate::act::Timed;
use crate::crash::what_panicked;
use crate::promise::{NO_PANIC, Violation};
use crate::random::Random;
use crate::recorder::Recorder;
use crate::scenarios::{Options, Scenario};
use crate::world::{Tally, World};

/// How a run ended.
pub struct Outcome {
    /// What it did.
    pub tally: Tally,
    /// The promise that was broken, and when.
    pub violation: Option<(u64, Violation)>,
    /// The acts that were in it, with their numbers in the whole script.
    pub acts: Vec<(usize, Timed)>,
    /// What happened, in words, with times.
    pub story: Vec<(u64, String)>,
    /// What there is to say of it all.
    pub summaries: Vec<String>,
    /// What was traced.
    pub recorder: Option<Recorder>,
    /// What each node's console showed.
    pub screens: Vec<(String, Vec<u8>)>,
}

/// What a seed's script is like, before anything happens.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// How many acts it has.
    pub acts: usize,
    /// How long the story takes by itself, nanoseconds.
    pub length_ns: u64,
}

/// Reads a seed's script without playing it.
#[must_use]
pub fn script(scenario: &Scenario, seed: u64, options: &Options) -> Script {
    let options = Options {
        length_ns: None,
        ..*options
    };
    let plan = (scenario.plan)(&mut Random::new(seed, "plan"), &options);
    Script {
        acts: plan.acts.len(),
        length_ns: plan.length_ns,
    }
}

/// Runs a seed. `keep` names the acts of the script that happen (None: all of them).
#[must_use]
pub fn run(
    scenario: &Scenario,
    seed: u64,
    options: &Options,
    keep: Option<&[usize]>,
    trace: Option<ClassMask>,
) -> Outcome {
    crate::crash::running(Some(seed));
    let plan = (scenario.plan)(&mut Random::new(seed, "plan"), options);
    let acts: Vec<(usize, Timed)> = plan.acts.into_iter().enumerate().collect();
    let acts: Vec<(usize, Timed)> = match keep {
        None => acts,
        Some(keep) => acts
            .into_iter()
            .filter(|(number, _)| keep.contains(number))
            .collect(),
    };
    let timed: Vec<Timed> = acts.iter().map(|(_, timed)| timed.clone()).collect();
    let mut world = World::new(seed);
    world.recorder = trace.map(|classes| Recorder::new(classes, plan.nodes, plan.cpus));
    let (set_up, length_ns) = (plan.set_up, plan.length_ns);
    let played = catch_unwind(AssertUnwindSafe(|| {
        set_up(&mut world, &timed)?;
        world.run_until(length_ns)?;
        world.end()
    }));
    // Outside of a step: as a kernel starts, or a bug of the simulator.
    let result =
        played.unwrap_or_else(|payload| Err(Violation::new(NO_PANIC, what_panicked(&*payload))));
    let violation = result.err().map(|violation| (world.now_ns(), violation));
    let screens = (0..world.node_count()).map(|node| {
        let host = world.host(node);
        let mut screen = host.screen.clone();
        if let Some(running) = &host.running {
            screen.extend(running.machine.take_words().0);
        }
        (host.settings.name.clone(), screen)
    });
    let screens = screens.collect();
    let outcome = Outcome {
        tally: world.tally(),
        violation,
        acts,
        story: std::mem::take(&mut world.story),
        summaries: std::mem::take(&mut world.summaries),
        recorder: world.recorder.take(),
        screens,
    };
    clear(world, outcome.violation.is_some());
    crate::crash::running(None);
    outcome
}

/// Takes a world down that was left in the middle of something: what cannot be taken down is left where it is.
fn clear(mut world: World, broken: bool) {
    if broken && catch_unwind(AssertUnwindSafe(|| world.discard())).is_err() {
        std::mem::forget(world);
    }
}
