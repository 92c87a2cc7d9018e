//! `trace`, `sysctl`, `workload`, and other commands that speak to the node.
//!
//! Source: DragonFly sysctl(8); the trace command is ours.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use executor::trace::record::{Class, ClassMask};

use crate::commands::arguments::{ArgumentError, Arguments, unknown};

const CLASSES: &str = "all, none, or classes joined by commas: sched, wake, ipi, port, token, irq, \
                       timer, memory, user (-CLASS takes one out)";

/// `trace on [CLASSES] | off | mask [CLASSES] | dump [COUNT] [cpu N] | stat | stream on|off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Start recording, with these classes or those set before.
    On(Option<ClassMask>),
    /// Stop recording.
    Off,
    /// Show the mask, or set it.
    Mask(Option<ClassMask>),
    /// Print the newest records, of all CPUs or of one.
    Dump {
        /// How many records.
        count: usize,
        /// Of this CPU alone.
        cpu: Option<u16>,
    },
    /// Print counts of written and lost records.
    Statistics,
    /// Start or stop sending records over the trace channel.
    Stream(bool),
}

/// Records that `trace dump` prints unless told.
pub const DEFAULT_DUMP_RECORDS: usize = 40;

/// Reads the words of a `trace` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_trace(mut words: Arguments<'_>) -> Result<Trace, ArgumentError> {
    const EXPECTED: &str = "on, off, mask, dump, stat or stream";
    let request = match words.word(EXPECTED)? {
        "on" => Trace::On(words.take().map(parse_classes).transpose()?),
        "off" => Trace::Off,
        "mask" => Trace::Mask(words.take().map(parse_classes).transpose()?),
        "dump" => {
            let mut count = DEFAULT_DUMP_RECORDS;
            if words.peek().is_some_and(|word| word != "cpu") {
                count = words.number("number of records", 1..=100_000)? as usize;
            }
            let mut cpu = None;
            if words.take_if("cpu") {
                cpu = Some(words.number("CPU", 0..=u64::from(u16::MAX))? as u16);
            }
            Trace::Dump { count, cpu }
        }
        "stat" => Trace::Statistics,
        "stream" => Trace::Stream(match words.word("on or off")? {
            "on" => true,
            "off" => false,
            word => return Err(unknown(word, "on or off")),
        }),
        word => return Err(unknown(word, EXPECTED)),
    };
    words.end()?;
    Ok(request)
}

/// Trace classes as `trace on` and the boot word `trace=` name them.
///
/// # Errors
/// If a word names no class.
pub fn parse_classes(word: &str) -> Result<ClassMask, ArgumentError> {
    ClassMask::parse(word).ok_or_else(|| unknown(word, CLASSES))
}

/// The names of the classes in a mask, joined by commas.
#[must_use]
pub fn class_names(mask: ClassMask) -> String {
    let names: Vec<&str> = Class::ALL
        .into_iter()
        .filter(|class| mask.contains(*class))
        .map(Class::name)
        .collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(",")
    }
}

/// `sysctl [-a | NAME | NAME=VALUE]...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sysctl {
    /// Show the names that are this one or lie below it; all, if empty.
    Show(String),
    /// Set a name.
    Set(String, String),
}

/// Reads the words of a `sysctl` line. `-w` is taken and means nothing, as on the BSDs today.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_sysctl(mut words: Arguments<'_>) -> Result<Vec<Sysctl>, ArgumentError> {
    let mut requests = Vec::new();
    while let Some(word) = words.take() {
        match word.split_once('=') {
            None if word == "-w" || word == "-n" => {}
            None if word == "-a" => requests.push(Sysctl::Show(String::new())),
            None if word.starts_with('-') => return Err(unknown(word, "-a, NAME or NAME=VALUE")),
            None => requests.push(Sysctl::Show(word.trim_end_matches('.').into())),
            Some(("", _)) => return Err(unknown(word, "NAME=VALUE")),
            Some((name, value)) => requests.push(Sysctl::Set(name.into(), value.into())),
        }
    }
    if requests.is_empty() {
        requests.push(Sysctl::Show(String::new()));
    }
    Ok(requests)
}

/// `vmstat [-m]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmstat {
    /// The heap of every CPU.
    Heaps,
    /// Objects by size.
    Sizes,
}

/// Reads the words of a `vmstat` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_vmstat(mut words: Arguments<'_>) -> Result<Vmstat, ArgumentError> {
    let request = match words.take() {
        None => Vmstat::Heaps,
        Some("-m") => Vmstat::Sizes,
        Some(word) => return Err(unknown(word, "-m, or the end of the line")),
    };
    words.end()?;
    Ok(request)
}

/// `workload [SECONDS]`: how long to exercise everything.
pub const DEFAULT_WORKLOAD: Duration = Duration::from_secs(3);

/// Reads the words of a `workload` line.
///
/// # Errors
/// The first word that is wrong, and what would be right.
pub fn parse_workload(mut words: Arguments<'_>) -> Result<Duration, ArgumentError> {
    let duration = if words.peek().is_some() {
        words.seconds()?
    } else {
        DEFAULT_WORKLOAD
    };
    words.end()?;
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::arguments::words_of;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn trace_lines() {
        let trace = |line| parse_trace(Arguments::new(&words_of(line)));
        for (line, expected) in [
            ("trace on", Trace::On(None)),
            ("trace on sched,ipi", Trace::On(Some(ClassMask(5)))),
            ("trace off", Trace::Off),
            ("trace mask", Trace::Mask(None)),
            ("trace mask all", Trace::Mask(Some(ClassMask::ALL))),
            ("trace mask none", Trace::Mask(Some(ClassMask::NONE))),
            (
                "trace dump",
                Trace::Dump {
                    count: DEFAULT_DUMP_RECORDS,
                    cpu: None,
                },
            ),
            (
                "trace dump 7",
                Trace::Dump {
                    count: 7,
                    cpu: None,
                },
            ),
            (
                "trace dump cpu 3",
                Trace::Dump {
                    count: DEFAULT_DUMP_RECORDS,
                    cpu: Some(3),
                },
            ),
            (
                "trace dump 7 cpu 0",
                Trace::Dump {
                    count: 7,
                    cpu: Some(0),
                },
            ),
            ("trace stat", Trace::Statistics),
            ("trace stream on", Trace::Stream(true)),
            ("trace stream off", Trace::Stream(false)),
        ] {
            assert_eq!(trace(line), Ok(expected), "{line}");
        }
        for (line, word, remedy) in [
            ("trace", "`trace`", "dump"),
            ("trace frob", "`frob`", "dump"),
            ("trace on scheds", "`scheds`", "sched, wake"),
            ("trace on sched,,ipi", "`sched,,ipi`", "sched, wake"),
            ("trace dump 0", "`0`", "from 1"),
            ("trace dump 5 cpu", "`cpu`", "CPU"),
            ("trace stream", "`stream`", "on or off"),
            ("trace off now", "`now`", "end of the line"),
        ] {
            let message = trace(line).unwrap_err().to_string();
            assert!(
                message.contains(word) && message.contains(remedy),
                "{line}: {message}"
            );
        }
    }

    #[test]
    fn class_names_and_masks_agree() {
        for mask in (0..=ClassMask::ALL.0).map(ClassMask) {
            assert_eq!(parse_classes(&class_names(mask)), Ok(mask));
        }
    }

    #[test]
    fn sysctl_lines() {
        let sysctl = |line| parse_sysctl(Arguments::new(&words_of(line)));
        assert_eq!(sysctl("sysctl"), Ok(vec![Sysctl::Show("".into())]));
        assert_eq!(sysctl("sysctl -a"), Ok(vec![Sysctl::Show("".into())]));
        assert_eq!(
            sysctl("sysctl -w net.inet.carp.preempt=1 kern."),
            Ok(vec![
                Sysctl::Set("net.inet.carp.preempt".into(), "1".into()),
                Sysctl::Show("kern".into())
            ])
        );
        assert!(sysctl("sysctl =1").is_err());
        assert!(sysctl("sysctl -x").is_err());
    }

    #[test]
    fn vmstat_lines() {
        let vmstat = |line| parse_vmstat(Arguments::new(&words_of(line)));
        assert_eq!(vmstat("vmstat"), Ok(Vmstat::Heaps));
        assert_eq!(vmstat("vmstat -m"), Ok(Vmstat::Sizes));
        assert!(vmstat("vmstat -x").is_err());
        assert!(vmstat("vmstat -m 1").is_err());
    }

    #[test]
    fn workload_lines() {
        let workload = |line| parse_workload(Arguments::new(&words_of(line)));
        assert_eq!(workload("workload"), Ok(DEFAULT_WORKLOAD));
        assert_eq!(workload("workload 0.5"), Ok(Duration::from_millis(500)));
        assert!(workload("workload long").is_err());
        assert!(workload("workload 1 2").is_err());
    }
}
