//! Start-up: from a machine with running CPUs to a prompt.
//!
//! The platform calls [`start`] on CPU 0 when every CPU that will run does. It reads as a story: the
//! log, the banner, the services, the start-up script, the console.
//!
//! Decision: everything here runs in one thread of CPU 0, the one that becomes the console. Start-up
//! is a sequence, and a sequence is easiest to follow when it is written as one.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use executor::trace::ClassMask;
use executor::{CpuId, Node, Priority};

use crate::commands::sysctl::Sysctls;
use crate::commands::{Context, Shell};
use crate::config::{Environment, RcScript};
use crate::console::Console;
use crate::console::terminal::{Output, Terminal};
use crate::drivers::probe;
use crate::log::{Dmesg, KernelLog};
use crate::network;
use crate::platform::Machine;
use crate::services::Services;
use crate::trace_stream::{self, Channel, TraceStream};

/// A poll longer than this is reported: long enough for an emulator that shares its core.
const WATCHDOG_NS: u64 = 500_000_000;

/// Starts the machine-independent kernel. Called on CPU 0, once, before its loop runs.
///
/// The platform may have called [`KernelLog::install`] before, for messages of its own.
pub fn start(machine: Arc<dyn Machine>, node: Arc<Node>) {
    let log = KernelLog::install(machine.clone(), &node);
    executor::spawn("console", run(machine, node, log)).detach();
}

async fn run(machine: Arc<dyn Machine>, node: Arc<Node>, log: Arc<KernelLog>) {
    let environment = Environment::parse(machine.command_line());
    log.set_quiet(environment.is_quiet());
    say_hello(&*machine, &node, &environment);
    set_up_executor(&node, &environment);

    let trace_stream = TraceStream::new(node.cpu_count());
    let devices = machine.hardware().map(probe::probe).unwrap_or_default();
    let channel = Channel {
        machine: machine.clone(),
        console: devices.console,
    };
    start_trace_stream(channel, &node, &trace_stream, environment.hostname());
    let mut networks = devices.networks;
    networks.extend(machine.networks());
    let (network, carp) = network::start(&node, networks).await;
    let terminal = Rc::new(Terminal::new(machine.clone()));
    let context = Context {
        output: Output::new(terminal.clone()),
        dmesg: Rc::new(RefCell::new(Dmesg::default())),
        sysctls: Sysctls::default(),
        services: Rc::new(Services::new(trace_stream, network, carp)),
        last_trace_mask: Cell::new(ClassMask::ALL),
        machine: machine.clone(),
        node,
        environment,
    };
    add_sysctls(&context);
    let carp = context.services.carp.clone();
    context.services.on_stop(move || {
        let carp = carp.clone();
        Box::pin(async move { carp.stop().await })
    });
    watch_power_button(context.machine.clone(), context.services.clone());

    log.set_quiet(false);
    log.hand_to_console_task();
    let scripts = scripts(&context);
    let mut console = Console::new(machine, terminal, log, Shell::new(context));
    for script in &scripts {
        console.run_script(script).await;
    }
    console.run().await;
}

/// The banner: who we are and what we run on.
fn say_hello(machine: &dyn Machine, node: &Node, environment: &Environment) {
    let cpus = node.cpu_count();
    log::info!(
        "Anax {} on {}, {cpus} CPU{}",
        env!("CARGO_PKG_VERSION"),
        machine.name(),
        if cpus == 1 { "" } else { "s" }
    );
    let mut facts = String::new();
    machine.describe(&mut facts);
    for fact in facts.lines() {
        log::info!("{fact}");
    }
    for complaint in environment.complaints() {
        log::warn!("{complaint}");
    }
}

/// Watchdog, run-time accounting, and the trace if the boot words ask for it.
fn set_up_executor(node: &Node, environment: &Environment) {
    node.set_watchdog_ns(WATCHDOG_NS);
    node.set_accounting(true);
    if let Some(classes) = environment.get("trace") {
        match ClassMask::parse(if classes.is_empty() { "on" } else { classes }) {
            Some(mask) => node.set_trace_mask(mask),
            None => log::warn!("trace={classes}: not trace classes; `help trace` lists them"),
        }
    }
}

fn start_trace_stream(
    channel: Channel,
    node: &Arc<Node>,
    stream: &Rc<TraceStream>,
    hostname: &str,
) {
    let (node, stream, hostname) = (node.clone(), stream.clone(), String::from(hostname));
    executor::Builder::new("trace stream")
        .priority(Priority::IDLE)
        .spawn(async move { trace_stream::run(channel, node, stream, &hostname).await })
        .detach();
}

/// Has the machine go down in good order when somebody outside asks for it.
fn watch_power_button(machine: Arc<dyn Machine>, services: Rc<Services>) {
    if machine.power_button().is_none() {
        return;
    }
    let watch = async move {
        if let Some(button) = machine.power_button() {
            button.wait().await;
        }
        log::info!("asked to power off");
        if !services.stop().await {
            log::warn!("a service did not stop in time; going on");
        }
        // The console shows the services' last words.
        executor::yield_now().await;
        machine.power_off()
    };
    executor::spawn("power button", watch).detach();
}

/// The start-up commands: the file first, so that the command line has the last word.
fn scripts(context: &Context) -> [RcScript; 2] {
    [
        context
            .machine
            .rc_text()
            .map(RcScript::from_file)
            .unwrap_or_default(),
        context
            .environment
            .get("rc")
            .map(RcScript::from_command_line)
            .unwrap_or_default(),
    ]
}

/// The names that belong to the node itself; services add their own.
fn add_sysctls(context: &Context) {
    let sysctls = &context.sysctls;
    let machine = context.machine.name();
    let hostname = String::from(context.environment.hostname());
    sysctls.add("kern.version", || {
        concat!("Anax ", env!("CARGO_PKG_VERSION"))
    });
    sysctls.add("kern.hostname", move || hostname.clone());
    sysctls.add("hw.machine", move || machine);
    let node = context.node.clone();
    sysctls.add("kern.ncpu", move || node.cpu_count());
    let node = context.node.clone();
    sysctls.add("kern.uptime_ns", move || node.clock_ns());
    let (read, write) = (context.node.clone(), context.node.clone());
    sysctls.add_settable(
        "lwkt.watchdog_ms",
        0..=3_600_000,
        move || read.watchdog_ns() / 1_000_000,
        move |ms| write.set_watchdog_ns(ms * 1_000_000),
    );
    let (read, write) = (context.node.clone(), context.node.clone());
    sysctls.add_settable(
        "lwkt.accounting",
        0..=1,
        move || u64::from(read.is_accounting()),
        move |on| write.set_accounting(on != 0),
    );
    let (read, write) = (context.services.carp.clone(), context.services.carp.clone());
    sysctls.add_settable(
        "net.inet.carp.preempt",
        0..=1,
        move || u64::from(read.preempts()),
        move |preempt| write.set_preempt(preempt != 0),
    );
    add_counters(sysctls, &context.node);
}

/// Each counter of the executor, summed over all CPUs: `lwkt.ipi_sent`.
fn add_counters(sysctls: &Sysctls, node: &Arc<Node>) {
    let mut names = Vec::new();
    node.cpu(CpuId(0)).stats().each(|name, _| names.push(name));
    for wanted in names {
        let node = node.clone();
        sysctls.add(&format!("lwkt.{wanted}"), move || {
            let mut sum = 0u64;
            for cpu in node.cpus() {
                cpu.stats().each(|name, value| {
                    if name == wanted {
                        sum = sum.wrapping_add(value);
                    }
                });
            }
            sum
        });
    }
}
