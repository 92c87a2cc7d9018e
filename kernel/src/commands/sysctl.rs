//! `sysctl`: names with values that can be read and, some of them, set.
//!
//! [`Sysctls`] is the registry; each service puts its names in at start-up with [`Sysctls::add`] and
//! [`Sysctls::add_settable`]. The names are DragonFly's where the thing is DragonFly's.
//!
//! Decision: values are text and a setter is a plain function. What needs to wait (a change on every
//! CPU) is sent from the setter as a message; the reader shows what is in force.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::RangeInclusive;

use super::arguments::{Arguments, parse_number};
use super::syntax::system::{Sysctl, parse_sysctl};
use super::words::nearest;
use super::{Command, CommandError, Context, run};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "sysctl",
    summary: "show or set the kernel's values",
    usage: "sysctl                  (all)\nsysctl NAME...          (a name, or all below it)\n\
            sysctl NAME=VALUE...",
    complete: |context, _| context.sysctls.names(),
    run: run!(sysctl),
}];

/// Why a sysctl cannot be read or set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SysctlError {
    /// No name begins so; perhaps the one meant.
    NoSuchName(String, Option<String>),
    /// The name can only be read.
    ReadOnly(String),
    /// The value is not one of those allowed.
    BadValue {
        /// The name.
        name: String,
        /// The value given.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl fmt::Display for SysctlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName(name, Some(meant)) => {
                write!(f, "no value is called `{name}`; did you mean `{meant}`?")
            }
            Self::NoSuchName(name, None) => {
                write!(f, "no value is called `{name}`; `sysctl` lists them all")
            }
            Self::ReadOnly(name) => write!(f, "`{name}` can only be read"),
            Self::BadValue {
                name,
                value,
                expected,
            } => {
                write!(f, "`{name}` cannot be `{value}`; expected {expected}")
            }
        }
    }
}

type Read = Box<dyn Fn() -> String>;
/// Sets a value; the error says what would be right.
type Write = Box<dyn Fn(&str) -> Result<(), String>>;

struct Entry {
    name: String,
    read: Read,
    write: Option<Write>,
}

/// The registry, ordered by name.
#[derive(Default)]
pub struct Sysctls {
    entries: RefCell<Vec<Entry>>,
}

impl Sysctls {
    /// Adds a value that can be read. A name that is there already is replaced.
    pub fn add<T: ToString>(&self, name: &str, read: impl Fn() -> T + 'static) {
        self.insert(name, Box::new(move || read().to_string()), None);
    }

    /// Adds a number that can be read and set within a range.
    pub fn add_settable(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
        read: impl Fn() -> u64 + 'static,
        write: impl Fn(u64) + 'static,
    ) {
        let write = move |value: &str| {
            let number = parse_number(value).filter(|number| range.contains(number));
            let expected = || format!("a number from {} to {}", range.start(), range.end());
            number.map(&write).ok_or_else(expected)
        };
        self.insert(
            name,
            Box::new(move || read().to_string()),
            Some(Box::new(write)),
        );
    }

    fn insert(&self, name: &str, read: Read, write: Option<Write>) {
        let mut entries = self.entries.borrow_mut();
        let entry = Entry {
            name: name.into(),
            read,
            write,
        };
        match entries.binary_search_by(|known| known.name.as_str().cmp(name)) {
            Ok(at) => entries[at] = entry,
            Err(at) => entries.insert(at, entry),
        }
    }

    /// All names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries
            .borrow()
            .iter()
            .map(|entry| entry.name.clone())
            .collect()
    }

    /// Names and values of `prefix` itself and what lies below it; of all, if it is empty.
    ///
    /// # Errors
    /// [`SysctlError::NoSuchName`] if there is none.
    pub fn read(&self, prefix: &str) -> Result<Vec<(String, String)>, SysctlError> {
        let below = |name: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let entries = self.entries.borrow();
        let found: Vec<_> = entries
            .iter()
            .filter(|entry| prefix.is_empty() || below(&entry.name))
            .map(|entry| (entry.name.clone(), (entry.read)()))
            .collect();
        if found.is_empty() {
            Err(self.no_such_name(prefix))
        } else {
            Ok(found)
        }
    }

    /// Sets a value, and returns the old and the new one.
    ///
    /// # Errors
    /// If there is no such name, it can only be read, or the value is not allowed.
    pub fn write(&self, name: &str, value: &str) -> Result<(String, String), SysctlError> {
        let entries = self.entries.borrow();
        let entry = entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| self.no_such_name(name))?;
        let write = entry
            .write
            .as_ref()
            .ok_or_else(|| SysctlError::ReadOnly(name.into()))?;
        let old = (entry.read)();
        write(value).map_err(|expected| SysctlError::BadValue {
            name: name.into(),
            value: value.into(),
            expected,
        })?;
        Ok((old, (entry.read)()))
    }

    fn no_such_name(&self, name: &str) -> SysctlError {
        let names = self.names();
        let meant = nearest(name, names.iter().map(String::as_str)).map(String::from);
        SysctlError::NoSuchName(name.into(), meant)
    }
}

async fn sysctl(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    for request in parse_sysctl(words)? {
        match request {
            Sysctl::Show(prefix) => {
                for (name, value) in context.sysctls.read(&prefix)? {
                    context.output.line(format_args!("{name}: {value}")).await;
                }
            }
            Sysctl::Set(name, value) => {
                let (old, new) = context.sysctls.write(&name, &value)?;
                context
                    .output
                    .line(format_args!("{name}: {old} -> {new}"))
                    .await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::Cell;

    fn registry() -> (Sysctls, Rc<Cell<u64>>) {
        let (sysctls, preempt) = (Sysctls::default(), Rc::new(Cell::new(0)));
        let (read, write) = (preempt.clone(), preempt.clone());
        sysctls.add("kern.ncpu", || 4);
        sysctls.add_settable(
            "net.inet.carp.preempt",
            0..=1,
            move || read.get(),
            move |value| write.set(value),
        );
        sysctls.add("net.inet.carpet", || "red");
        (sysctls, preempt)
    }

    #[test]
    fn a_prefix_lists_what_lies_below_it_and_not_what_only_begins_alike() {
        let (sysctls, _) = registry();
        let names = |prefix| {
            let found = sysctls.read(prefix).unwrap();
            found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(""),
            ["kern.ncpu", "net.inet.carp.preempt", "net.inet.carpet"]
        );
        assert_eq!(names("net.inet.carp"), ["net.inet.carp.preempt"]);
        assert_eq!(names("kern.ncpu"), ["kern.ncpu"]);
    }

    #[test]
    fn setting_returns_both_values_and_refuses_what_is_out_of_range() {
        let (sysctls, preempt) = registry();
        let both = sysctls.write("net.inet.carp.preempt", "1");
        assert_eq!(both, Ok(("0".into(), "1".into())));
        assert_eq!(preempt.get(), 1);
        for bad in ["2", "yes", ""] {
            let error = sysctls.write("net.inet.carp.preempt", bad).unwrap_err();
            assert!(error.to_string().contains("from 0 to 1"), "{error}");
        }
        assert_eq!(preempt.get(), 1);
    }

    #[test]
    fn wrong_names_are_named_with_the_nearest_right_one() {
        let (sysctls, _) = registry();
        assert_eq!(
            sysctls.read("kern.ncpus").unwrap_err().to_string(),
            "no value is called `kern.ncpus`; did you mean `kern.ncpu`?"
        );
        let read_only = sysctls.write("kern.ncpu", "8");
        assert_eq!(read_only, Err(SysctlError::ReadOnly("kern.ncpu".into())));
        assert!(sysctls.read("vm").is_err());
    }
}
