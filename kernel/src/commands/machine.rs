//! Commands that end things: `reboot`, `poweroff`, `halt`, `panic`.
//!
//! Decision: `poweroff` and `reboot` run the shutdown hooks first (a CARP master bows out, so that its
//! peer takes over within milliseconds), but no longer than [`Services::stop`](crate::services::Services::stop) waits.

use executor::yield_now;

use super::arguments::Arguments;
use super::{Command, CommandError, Context, no_words, owned, run};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "reboot",
        summary: "stop the services and start the machine again",
        usage: "reboot",
        complete: no_words,
        run: run!(reboot),
    },
    Command {
        name: "poweroff",
        summary: "stop the services and switch the machine off",
        usage: "poweroff",
        complete: no_words,
        run: run!(power_off),
    },
    Command {
        name: "halt",
        summary: "the same as poweroff",
        usage: "halt",
        complete: no_words,
        run: run!(power_off),
    },
    Command {
        name: "panic",
        summary: "crash on purpose, to see what a crash does",
        usage: "panic yes",
        complete: |_, _| owned(&["yes"]),
        run: run!(crash),
    },
];

async fn reboot(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    say_goodbye(context, "rebooting").await;
    context.machine.reboot()
}

async fn power_off(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    say_goodbye(context, "powering off").await;
    context.machine.power_off()
}

async fn say_goodbye(context: &Context, what: &str) {
    context.output.line(format_args!("{what}")).await;
    if !context.services.stop().await {
        context
            .output
            .line(format_args!("a service did not stop in time; going on"))
            .await;
    }
    // The console looks at the log between two polls of ours: it shows the services' last words.
    yield_now().await;
}

async fn crash(_: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    match words.take() {
        Some("yes") => {
            words.end()?;
            panic!("asked for on the console")
        }
        _ => Err(CommandError::NotConfirmed),
    }
}
