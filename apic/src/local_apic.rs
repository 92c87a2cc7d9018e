//! The local APIC of the current CPU: xAPIC (memory-mapped) and x2APIC (MSRs) behind one type.
//!
//! One [`LocalApic`] value serves every CPU: the registers are at the same place on each and answer for the
//! CPU that asks. Which flavour is used is decided once, from CPUID; [`LocalApic::enable`] then puts each CPU
//! into it. A field and a branch rather than two types: a register access costs tens of nanoseconds, the
//! branch one, and the kernel's callers stay free of a type parameter.
//!
//! Source: Intel SDM volume 3A, chapter 11 (register table 11-1, x2APIC 11.12, timer 11.5.4).

/// How the registers are reached; the platform implements it, and tests with a fake.
///
/// All calls mean the *current* CPU.
pub trait Hardware {
    /// Reads a memory-mapped register at this byte offset of the APIC page.
    fn read_register(&self, offset: u16) -> u32;
    /// Writes a memory-mapped register.
    fn write_register(&self, offset: u16, value: u32);
    /// Reads a model-specific register.
    fn read_msr(&self, msr: u32) -> u64;
    /// Writes a model-specific register.
    fn write_msr(&self, msr: u32, value: u64);
    /// Orders every earlier memory access before the following MSR write (`mfence; lfence`): writes to
    /// x2APIC registers and to the TSC deadline are not serialising.
    fn fence(&self);
}

/// What CPUID says of the local APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Leaf 1, ECX bit 21.
    pub x2apic: bool,
    /// Leaf 1, ECX bit 24.
    pub tsc_deadline: bool,
}

/// The vectors that the APIC itself raises.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// The timer's.
    pub timer: u8,
    /// For an interrupt that vanished before it was acknowledged (low four bits must be ones on old CPUs).
    pub spurious: u8,
}

/// What [`LocalApic::arm`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// In TSC-deadline mode: when the time-stamp counter reaches this.
    AtTsc(u64),
    /// In one-shot mode: after so many ticks of the APIC timer.
    AfterTicks(u32),
}

/// The local APIC of whichever CPU calls. Having one says nothing about the current CPU: see [`Self::enable`].
#[derive(Debug)]
pub struct LocalApic<H> {
    hardware: H,
    features: Features,
}

const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_X2APIC: u32 = 0x800;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;

const ID: u16 = 0x20;
const VERSION: u16 = 0x30;
const TASK_PRIORITY: u16 = 0x80;
const END_OF_INTERRUPT: u16 = 0xb0;
const SPURIOUS: u16 = 0xf0;
const ERROR_STATUS: u16 = 0x280;
const COMMAND_LOW: u16 = 0x300;
const COMMAND_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_LINT0: u16 = 0x350;
const LVT_LINT1: u16 = 0x360;
const LVT_ERROR: u16 = 0x370;
const INITIAL_COUNT: u16 = 0x380;
const CURRENT_COUNT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TIMER_TSC_DEADLINE: u32 = 1 << 18;
const DIVIDE_BY_1: u32 = 0b1011;

const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const DELIVERY_PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const ALL_BUT_SELF: u32 = 3 << 18;
/// An interrupt command leaves the APIC in well under this many reads of its status, or never will.
const DELIVERY_POLLS_MAX: u32 = 10_000;

impl<H: Hardware> LocalApic<H> {
    /// For CPUs with these features. Touches no hardware.
    pub const fn new(hardware: H, features: Features) -> LocalApic<H> {
        LocalApic { hardware, features }
    }

    /// What was found at [`Self::new`].
    pub fn features(&self) -> Features {
        self.features
    }

    /// Switches the current CPU's APIC on, in our flavour, with its timer stopped and every line masked but
    /// LINT1, which carries NMI. A CPU calls this before any other method, with interrupts off.
    pub fn enable(&self, vectors: Vectors) {
        let base = self.hardware.read_msr(MSR_APIC_BASE);
        let mut wanted = base | APIC_BASE_ENABLE;
        if self.features.x2apic {
            wanted |= APIC_BASE_X2APIC;
        }
        if wanted != base {
            self.hardware.write_msr(MSR_APIC_BASE, wanted);
        }
        self.write(SPURIOUS, SOFTWARE_ENABLE | u32::from(vectors.spurious));
        self.write(TASK_PRIORITY, 0);
        // LINT0 carries the 8259 pair after a BIOS; an interrupt of theirs would land among the exceptions.
        self.write(LVT_LINT0, MASKED);
        self.write(LVT_LINT1, DELIVER_NMI);
        self.write(LVT_ERROR, MASKED);
        self.write(ERROR_STATUS, 0);
        self.write(DIVIDE, DIVIDE_BY_1);
        let mode = if self.features.tsc_deadline {
            TIMER_TSC_DEADLINE
        } else {
            0
        };
        self.write(LVT_TIMER, mode | u32::from(vectors.timer));
        self.disarm();
    }

    /// The current CPU's APIC id.
    pub fn id(&self) -> u32 {
        let id = self.read(ID);
        if self.features.x2apic { id } else { id >> 24 }
    }

    /// The version register's low byte (0x10 to 0x15 for every APIC since the Pentium 4).
    pub fn version(&self) -> u8 {
        self.read(VERSION) as u8
    }

    /// Ends the interrupt in service on the current CPU.
    #[inline]
    pub fn end_of_interrupt(&self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// Sends interrupt `vector` to the CPU with this APIC id.
    ///
    /// Call with interrupts off: in xAPIC mode the command is two registers, and a handler that sends
    /// between the two writes would redirect ours.
    #[inline]
    pub fn send(&self, apic_id: u32, vector: u8) {
        self.command(apic_id, ASSERT | u32::from(vector));
    }

    /// Sends `vector` to every other CPU. Interrupts off, as for [`Self::send`].
    pub fn send_to_others(&self, vector: u8) {
        self.command(0, ALL_BUT_SELF | ASSERT | u32::from(vector));
    }

    /// Sends a non-maskable interrupt to every other CPU: it arrives even where interrupts are off.
    pub fn send_nmi_to_others(&self) {
        self.command(0, ALL_BUT_SELF | ASSERT | DELIVER_NMI);
    }

    /// Resets every other CPU; it then waits for a start-up message.
    pub fn send_init_to_others(&self) {
        self.command(0, ALL_BUT_SELF | ASSERT | DELIVER_INIT);
    }

    /// Starts every waiting CPU in real mode at physical address `page << 12`.
    pub fn send_startup_to_others(&self, page: u8) {
        self.command(0, ALL_BUT_SELF | ASSERT | DELIVER_STARTUP | u32::from(page));
    }

    /// Arms the current CPU's timer, once. The kind of alarm must fit the mode ([`Features::tsc_deadline`]):
    /// an alarm of the other kind is not armed, and false comes back.
    #[inline]
    pub fn arm(&self, alarm: Alarm) -> bool {
        match (alarm, self.features.tsc_deadline) {
            (Alarm::AtTsc(tsc), true) => {
                self.hardware.fence();
                // Zero would disarm; a deadline already past fires at once, which is what is wanted.
                self.hardware.write_msr(MSR_TSC_DEADLINE, tsc.max(1));
                true
            }
            (Alarm::AfterTicks(ticks), false) => {
                // Zero would stop the timer.
                self.write(INITIAL_COUNT, ticks.max(1));
                true
            }
            _ => false,
        }
    }

    /// Stops the current CPU's timer. An alarm that went off just before may still be delivered.
    pub fn disarm(&self) {
        if self.features.tsc_deadline {
            self.hardware.fence();
            self.hardware.write_msr(MSR_TSC_DEADLINE, 0);
        } else {
            self.write(INITIAL_COUNT, 0);
        }
    }

    /// Lets the timer count down from its maximum with its interrupt masked, to measure something against it.
    pub fn start_counting(&self) {
        let line = self.read(LVT_TIMER);
        self.write(LVT_TIMER, (line | MASKED) & !TIMER_TSC_DEADLINE);
        self.write(INITIAL_COUNT, u32::MAX);
    }

    /// Lets the timer, counting or not, interrupt when it runs out.
    pub fn unmask_timer(&self) {
        self.write(LVT_TIMER, self.read(LVT_TIMER) & !MASKED);
    }

    /// Ticks since [`Self::start_counting`].
    #[inline]
    pub fn counted(&self) -> u32 {
        u32::MAX - self.read(CURRENT_COUNT)
    }

    fn command(&self, apic_id: u32, low: u32) {
        if self.features.x2apic {
            self.hardware.fence();
            let command = u64::from(apic_id) << 32 | u64::from(low);
            self.hardware
                .write_msr(MSR_X2APIC + u32::from(COMMAND_LOW >> 4), command);
            return;
        }
        // The command before ours may still be on its way; on a machine where it is stuck, waiting for ever
        // would help nobody.
        for _ in 0..DELIVERY_POLLS_MAX {
            if self.read(COMMAND_LOW) & DELIVERY_PENDING == 0 {
                break;
            }
            core::hint::spin_loop();
        }
        self.write(COMMAND_HIGH, apic_id << 24);
        self.write(COMMAND_LOW, low);
    }

    #[inline]
    fn read(&self, offset: u16) -> u32 {
        if self.features.x2apic {
            self.hardware.read_msr(MSR_X2APIC + u32::from(offset >> 4)) as u32
        } else {
            self.hardware.read_register(offset)
        }
    }

    #[inline]
    fn write(&self, offset: u16, value: u32) {
        if self.features.x2apic {
            self.hardware
                .write_msr(MSR_X2APIC + u32::from(offset >> 4), value.into());
        } else {
            self.hardware.write_register(offset, value);
        }
    }
}

#[cfg(test)]
mod tests;
