//! `carp`: the node's demotion, and where each of its virtual addresses stands.
//!
//! Decision: beside `ifconfig carp0 demote`, which concerns one interface, since what makes a node a bad master
//! (an upkeep, a slow disk) mostly concerns all of them, and those that are created meanwhile.

use alloc::string::String;

use super::arguments::Arguments;
use super::syntax::carp::{Request, parse};
use super::{Command, CommandError, Context, owned, run};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "carp",
    summary: "show CARP's states, and why this node would rather not be master",
    usage: "carp\ncarp demote REASON WEIGHT   (for every carp interface; a weight of 0 takes it back)",
    complete: |_, words| match words.len() {
        1 => owned(&["demote"]),
        _ => owned(&["boot"]),
    },
    run: run!(carp),
}];

async fn carp(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let carp = &context.services.carp;
    match parse(words)? {
        Request::Demote(reason, weight) => Ok(carp.demote(&reason, weight).await?),
        Request::Show => {
            let report = carp.report().await;
            if report.demotions.is_empty() {
                context.output.line(format_args!("not demoted")).await;
            }
            for (reason, weight) in &report.demotions {
                context
                    .output
                    .line(format_args!("demoted by {weight} ({reason})"))
                    .await;
            }
            for status in report.interfaces {
                let mut line = alloc::format!("{}: {}", status.name, status.state);
                let own = |demotion: &&(String, u8)| !report.demotions.contains(demotion);
                for (reason, weight) in status.demotions.iter().filter(own) {
                    line.push_str(&alloc::format!(", demoted by {weight} ({reason})"));
                }
                context.output.line(format_args!("{line}")).await;
            }
            Ok(())
        }
    }
}
