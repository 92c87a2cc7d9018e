# The first instructions of the other CPUs: from real mode to Rust.
#
# The first part is copied to a page below 1 MiB (cpus.rs chooses it from the memory map) and runs there in
# real mode; it goes straight to long mode under the boot page tables. The second part finds the CPU's slot
# by its APIC id, switches to the kernel's page tables and the slot's stack, and calls application_processor.
# All CPUs run this at the same time: it writes no memory before it has a stack of its own.
# `ap_start` is cpus.rs's: count, ids, stacks, page table, in this order, 8 bytes each.

.section .rodata.trampoline, "a", @progbits
.code16
.globl trampoline_begin
trampoline_begin:
    cli
    cld
    mov ax, cs
    mov ds, ax
    # LLVM refuses a sum of symbol differences in 16-bit code: the pointer is at a fixed offset instead.
    .byte 0x66, 0x0f, 0x01, 0x16, 0x60, 0x00    # lgdt, 32-bit, at ds:0x60
    mov eax, cr4
    or eax, 1 << 5                      # physical address extension
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER: long mode, no-execute
    xor edx, edx
    mov eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, (1 << 31) | (1 << 16) | 0x11   # paging, write protection, protected mode, 387
    mov cr0, eax
    .byte 0x66, 0xea                    # far jump, 32-bit
    .long ap_long_mode
    .short 8
    .org trampoline_begin + 0x60
    .short 23
    .long boot_gdt
.globl trampoline_end
trampoline_end:

.section .boot.text, "ax", @progbits
.code64
ap_long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    movabs rax, offset ap_high
    jmp rax

.section .text.trampoline, "ax", @progbits
ap_high:
    xor eax, eax
    cpuid
    cmp eax, 0xb
    jb 1f
    mov eax, 0xb                        # the x2APIC id, if the leaf means anything
    xor ecx, ecx
    cpuid
    test ebx, ebx
    jnz 2f
1:  mov eax, 1                          # the 8-bit id
    cpuid
    shr ebx, 24
    mov edx, ebx
2:  lea rsi, [rip + ap_start]
    mov rcx, [rsi]
    mov rdi, [rsi + 8]
    xor eax, eax
3:  cmp rax, rcx
    jae 4f
    cmp [rdi + rax * 4], edx
    je 5f
    inc rax
    jmp 3b
4:  hlt                                 # nobody we know: park, interrupts are off
    jmp 4b
5:  mov rdx, [rsi + 16]
    mov rbx, [rsi + 24]
    mov rcx, [rdx + rax * 8]
    mov cr3, rbx
    mov rsp, rcx
    xor ebp, ebp                        # ends the backtrace
    mov rdi, rax
    call application_processor
    ud2
