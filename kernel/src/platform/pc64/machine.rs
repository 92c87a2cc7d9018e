//! The machine as the kernel sees it: [`Machine`] and [`executor::Platform`] over the parts of this folder.
//!
//! Both traits are implemented for a reference: there is one [`Pc64`], made when the CPUs are up, and it never goes away. The interrupt entries find it
//! through a static (there is nowhere else that an interrupt could look before its CPU is a CPU of a node);
//! everything else gets a reference.

use super::clock;
use super::console::Console;
use super::features::Features;
use super::hardware::{FwCfgPorts, IoApicPage, LocalApicPage};
use super::vectors;
use super::{cpus, power, serial};
use crate::debugger::Note;
use crate::platform::Machine;
use alloc::vec::Vec;
use apic::boot_info::{BootInfo, Loader};
use apic::clock::Clock;
use apic::io_apic::{IoApic, Route};
use apic::local_apic::{Alarm, LocalApic, Vectors};
use apic::tables::Firmware;
use apic::vector_map::VectorMap;
use conquer_once::spin::OnceCell;
use core::fmt;
use executor::{Cpu, CpuId, Event, Platform};
use x86_64::instructions::interrupts;

/// The local APIC of this machine's CPUs.
pub type Apic = LocalApic<LocalApicPage>;

/// What every CPU's APIC is set to.
pub const VECTORS: Vectors = Vectors {
    timer: vectors::TIMER,
    spurious: vectors::SPURIOUS,
};

static MACHINE: OnceCell<Pc64> = OnceCell::uninit();

/// A CPU of the machine.
pub struct Processor {
    /// Its APIC id.
    pub apic_id: u32,
    /// Its slot while CPUs were started.
    pub slot: usize,
    /// Its interrupt vectors.
    pub vectors: VectorMap,
    /// What it was doing when a panic stopped it.
    pub note: OnceCell<Note>,
}

/// Everything known about the machine. The order of `processors` is that of [`CpuId`].
pub struct Pc64 {
    /// What the boot loader said.
    pub boot: BootInfo,
    /// What the CPUs can do.
    pub features: &'static Features,
    /// What the firmware's tables say.
    pub firmware: Firmware,
    /// Every CPU's local APIC.
    pub apic: &'static Apic,
    /// The clock.
    pub clock: Clock,
    /// The CPUs that came up.
    pub processors: Vec<Processor>,
    /// APIC ids of CPUs that did not.
    pub absent: Vec<u32>,
    /// By how many ticks the CPUs' time-stamp counters disagree at least (0: no disagreement seen).
    pub tsc_disagreement: u64,
    /// The console port's receive side.
    pub console: Console,
    /// COM2 is there.
    pub trace_port: bool,
    io_apics: Vec<IoApic<IoApicPage>>,
    rc: Option<Vec<u8>>,
}

impl Pc64 {
    /// Puts the parts together and makes it the machine.
    pub fn install(
        boot: BootInfo,
        features: &'static Features,
        firmware: Firmware,
        apic: &'static Apic,
        started: cpus::Outcome,
        console: Console,
    ) -> &'static Pc64 {
        let chip = |entry: &apic::tables::IoApicEntry| {
            let page = super::paging::map_device(entry.address..entry.address + 4096)?;
            // SAFETY: the MADT says that an I/O APIC is there; the boot CPU alone uses it.
            Some(IoApic::new(unsafe { IoApicPage::new(page) }, entry.first))
        };
        let io_apics = firmware.io_apics.iter().filter_map(chip).collect();
        let rc = if features.emulated_apic() {
            apic::fw_cfg::read(&mut FwCfgPorts, "opt/anax/rc")
        } else {
            None
        };
        let machine = Pc64 {
            boot,
            features,
            firmware,
            apic,
            clock: started.clock,
            processors: started.processors,
            absent: started.absent,
            tsc_disagreement: started.tsc_disagreement,
            console,
            trace_port: serial::COM2.init(|_| {}),
            io_apics,
            rc,
        };
        MACHINE.try_init_once(|| machine).ok();
        Self::get().unwrap_or_else(|| unreachable!("initialised in the line above"))
    }

    /// The machine, once there is one.
    pub fn get() -> Option<&'static Pc64> {
        MACHINE.try_get().ok()
    }

    /// The hardware side of a CPU.
    pub fn processor(&self, cpu: CpuId) -> Option<&Processor> {
        self.processors.get(cpu.index())
    }

    /// Keeps what a CPU is doing, for the debugger. The first note stays.
    pub fn leave_note(&self, cpu: CpuId, note: Note) {
        if let Some(processor) = self.processor(cpu) {
            processor.note.try_init_once(|| note).ok();
        }
    }

    /// Sends an ISA interrupt to a vector of a CPU. False: no I/O APIC has it.
    pub fn route_isa(&self, irq: u8, vector: &vectors::Vector) -> bool {
        let (interrupt, signal) = self.firmware.isa(irq);
        let apic_id = self
            .processor(vector.cpu())
            .and_then(|it| u8::try_from(it.apic_id).ok());
        let Some(apic_id) = apic_id else { return false };
        let route = Route {
            apic_id,
            vector: vector.line(),
            signal,
        };
        self.io_apics
            .iter()
            .any(|chip| chip.route(interrupt, route).is_ok())
    }

    /// Starts the console's input. On CPU 0, entered.
    pub fn start_console(&'static self, cpu: &Cpu) {
        let Some(vector) = vectors::allocate(self, cpu.id()) else {
            return;
        };
        cpu.on_interrupt(vector.line(), alloc::rc::Rc::new(|| self.console.receive()));
        if self.route_isa(serial::COM1_ISA_IRQ, &vector) {
            self.console.enable();
            // The console keeps its vector for good.
            core::mem::forget(vector);
        }
    }
}

impl Machine for &'static Pc64 {
    fn hardware(&self) -> Option<&dyn crate::drivers::probe::Hardware> {
        Some(self)
    }

    fn cycles(&self) -> Option<u64> {
        Some(super::clock::tsc())
    }

    fn name(&self) -> &'static str {
        use super::features::Hypervisor;
        match self.features.hypervisor {
            Hypervisor::None => "pc64",
            Hypervisor::QemuTcg => "pc64 (QEMU TCG)",
            Hypervisor::Kvm => "pc64 (KVM)",
            Hypervisor::Other => "pc64 (hypervisor)",
        }
    }

    fn power_off(&self) -> ! {
        power::power_off(&self.firmware)
    }

    fn reboot(&self) -> ! {
        power::reboot(Some(&self.firmware))
    }

    fn write_console(&self, bytes: &[u8]) {
        serial::COM1.send(bytes);
    }

    fn read_console(&self, buffer: &mut [u8]) -> usize {
        self.console.take(buffer)
    }

    fn console_event(&self) -> &Event {
        self.console.event()
    }

    fn write_trace(&self, bytes: &[u8]) -> usize {
        if !self.trace_port {
            return 0;
        }
        serial::COM2.send(bytes);
        bytes.len()
    }

    fn command_line(&self) -> &str {
        self.boot.command_line()
    }

    fn rc_text(&self) -> Option<&[u8]> {
        self.rc.as_deref()
    }

    fn describe(&self, out: &mut dyn fmt::Write) {
        // A writer that fails has nobody to be told.
        let _ = self.write_facts(out);
    }
}

impl Pc64 {
    fn write_facts(&'static self, out: &mut dyn fmt::Write) -> fmt::Result {
        let loader = match self.boot.loader {
            Loader::Pvh => "PVH",
            Loader::Multiboot2 => "multiboot2",
        };
        write!(out, "{}, {loader} boot, ", self.name())?;
        self.features.write_name(out)?;
        writeln!(out)?;
        let mib = self.boot.usable_bytes() >> 20;
        writeln!(
            out,
            "{mib} MiB of memory in {} regions",
            self.boot.usable().len()
        )?;
        if self.boot.regions_dropped() > 0 {
            writeln!(
                out,
                "{} memory regions more than we can hold",
                self.boot.regions_dropped()
            )?;
        }
        let flavour = if self.features.apic.x2apic {
            "x2APIC"
        } else {
            "xAPIC"
        };
        let inputs: u32 = self.io_apics.iter().map(IoApic::inputs).sum();
        writeln!(
            out,
            "{} CPUs, {flavour}, {} I/O APICs with {inputs} inputs",
            self.processors.len(),
            self.io_apics.len(),
        )?;
        for apic_id in &self.absent {
            writeln!(
                out,
                "the CPU with APIC id {apic_id} did not start and is left out"
            )?;
        }
        let timer = if self.features.apic.tsc_deadline {
            "TSC deadline"
        } else {
            "one-shot"
        };
        let khz = self.clock.tsc_hz / 1000;
        let (mhz, khz) = (khz / 1000, khz % 1000);
        writeln!(
            out,
            "TSC {mhz}.{khz:03} MHz ({:?}), timer {timer}",
            self.clock.source
        )?;
        if self.tsc_disagreement > 0 {
            writeln!(
                out,
                "time-stamp counters disagree by at least {}",
                self.tsc_disagreement
            )?;
        }
        Ok(())
    }
}

impl Platform for &'static Pc64 {
    #[inline]
    fn clock_ns(&self) -> u64 {
        self.clock.ns_at(clock::tsc())
    }

    fn doorbell(&self, target: CpuId) {
        if let Some(processor) = self.processor(target) {
            interrupts::without_interrupts(|| {
                self.apic.send(processor.apic_id, vectors::DOORBELL);
            });
        }
    }

    fn idle(&self, cpu: &Cpu) {
        interrupts::disable();
        if cpu.may_sleep() {
            // One instruction pair: nothing can come between the two and find us about to sleep.
            interrupts::enable_and_hlt();
        } else {
            interrupts::enable();
        }
    }

    fn set_timer(&self, deadline_ns: Option<u64>) {
        match deadline_ns {
            None => self.apic.disarm(),
            Some(deadline_ns) if self.features.apic.tsc_deadline => {
                self.apic.arm(Alarm::AtTsc(self.clock.tsc_at(deadline_ns)));
            }
            Some(deadline_ns) => {
                let left_ns = deadline_ns.saturating_sub(self.clock_ns());
                self.apic
                    .arm(Alarm::AfterTicks(self.clock.timer_ticks(left_ns)));
            }
        }
    }
}
