//! Commands that only speak: `help`, `echo`, `true`, `sleep`, `dmesg`, `kenv`.

use alloc::string::String;
use alloc::vec::Vec;

use executor::sleep;

use super::arguments::{Arguments, unknown};
use super::words::nearest;
use super::{Command, CommandError, Context, all, find, no_words, run};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        summary: "list the commands, or tell about one",
        usage: "help\nhelp COMMAND",
        complete: |_, words| match words.len() {
            1 => all().map(|command| String::from(command.name)).collect(),
            _ => Vec::new(),
        },
        run: run!(help),
    },
    Command {
        name: "echo",
        summary: "print its words",
        usage: "echo WORD...",
        complete: no_words,
        run: run!(echo),
    },
    Command {
        name: "true",
        summary: "do nothing, successfully",
        usage: "true",
        complete: no_words,
        run: run!(succeed),
    },
    Command {
        name: "sleep",
        summary: "wait",
        usage: "sleep SECONDS        (decimals are taken; Ctrl-C ends it)",
        complete: no_words,
        run: run!(wait),
    },
    Command {
        name: "dmesg",
        summary: "show the log again",
        usage: "dmesg",
        complete: no_words,
        run: run!(dmesg),
    },
    Command {
        name: "kenv",
        summary: "show the kernel environment (the boot words)",
        usage: "kenv\nkenv NAME",
        complete: |context, _| {
            context
                .environment
                .iter()
                .map(|(name, _)| String::from(name))
                .collect()
        },
        run: run!(kenv),
    },
];

async fn help(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let output = &context.output;
    let Some(name) = words.take() else {
        for command in all() {
            output
                .line(format_args!("{:<10} {}", command.name, command.summary))
                .await;
        }
        output
            .line(format_args!(
                "`help COMMAND` tells more. Tab completes, Ctrl-C stops."
            ))
            .await;
        return Ok(());
    };
    words.end()?;
    let command =
        find(name).ok_or_else(|| match nearest(name, all().map(|command| command.name)) {
            None => unknown(name, "a command; `help` alone lists them").into(),
            meant => CommandError::NoSuchCommand(meant),
        })?;
    output
        .line(format_args!("{}: {}", command.name, command.summary))
        .await;
    for line in command.usage.lines() {
        output.line(format_args!("    {line}")).await;
    }
    Ok(())
}

async fn echo(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    context
        .output
        .line(format_args!("{}", words.take_rest().join(" ")))
        .await;
    Ok(())
}

async fn succeed(_: &Context, _: Arguments<'_>) -> Result<(), CommandError> {
    Ok(())
}

async fn wait(_: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let duration = words.seconds()?;
    words.end()?;
    sleep(duration).await;
    Ok(())
}

async fn dmesg(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    words.end()?;
    // The log grows while we wait for the terminal, and nothing may be borrowed over an await.
    let (lines, forgotten) = {
        let dmesg = context.dmesg.borrow();
        (
            dmesg.lines().copied().collect::<Vec<_>>(),
            dmesg.forgotten(),
        )
    };
    if forgotten > 0 {
        context
            .output
            .line(format_args!("({forgotten} older lines are gone)"))
            .await;
    }
    for line in lines {
        context.output.line(format_args!("{line}")).await;
    }
    Ok(())
}

async fn kenv(context: &Context, mut words: Arguments<'_>) -> Result<(), CommandError> {
    let wanted = words.take();
    words.end()?;
    for (name, value) in context.environment.iter() {
        if wanted.is_none_or(|wanted| wanted == name) {
            context
                .output
                .line(format_args!("{name}=\"{value}\""))
                .await;
        }
    }
    Ok(())
}
