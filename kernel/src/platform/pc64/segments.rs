//! Per-CPU segments: a GDT with flat code and data, and the TSS that names the interrupt stacks.
//!
//! Invariant: a GDT and TSS are leaked when made, and loaded by one CPU.

use super::stacks::Stacks;
use alloc::boxed::Box;
use x86_64::instructions::{segmentation::Segment, tables::load_tss};
use x86_64::registers::segmentation::{CS, DS, ES, FS, GS, SS, SegmentSelector};
use x86_64::structures::{gdt, tss::TaskStateSegment};

/// Interrupt-stack-table slots, for idt.rs.
pub const IST_NMI: u16 = 0;
/// Of double faults.
pub const IST_DOUBLE_FAULT: u16 = 1;
/// Of machine checks.
pub const IST_MACHINE_CHECK: u16 = 2;

/// One CPU's segments.
pub struct Segments {
    table: gdt::GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

impl Segments {
    /// Makes the segments of a CPU with these stacks.
    pub fn new(stacks: &Stacks) -> &'static Segments {
        let mut task = TaskStateSegment::new();
        task.privilege_stack_table[0] = stacks.main;
        task.interrupt_stack_table[usize::from(IST_NMI)] = stacks.nmi;
        task.interrupt_stack_table[usize::from(IST_DOUBLE_FAULT)] = stacks.double_fault;
        task.interrupt_stack_table[usize::from(IST_MACHINE_CHECK)] = stacks.machine_check;
        let task: &'static TaskStateSegment = Box::leak(Box::new(task));
        let mut table = gdt::GlobalDescriptorTable::new();
        let code = table.append(gdt::Descriptor::kernel_code_segment());
        let data = table.append(gdt::Descriptor::kernel_data_segment());
        let task = table.append(gdt::Descriptor::tss_segment(task));
        Box::leak(Box::new(Segments {
            table,
            code,
            data,
            task,
        }))
    }

    /// Loads them into the current CPU, once: loading marks the TSS busy.
    pub fn load(&'static self) {
        self.table.load();
        // SAFETY: the selectors are those of the table just loaded: flat 64-bit code, flat data, the TSS.
        unsafe {
            CS::set_reg(self.code);
            SS::set_reg(self.data);
            DS::set_reg(self.data);
            ES::set_reg(self.data);
            FS::set_reg(SegmentSelector::NULL);
            GS::set_reg(SegmentSelector::NULL);
            load_tss(self.task);
        }
    }
}
