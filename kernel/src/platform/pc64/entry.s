# The first instructions: from the boot loader's 32-bit protected mode to Rust in the higher half.
#
# Two loaders, one path. PVH (QEMU -kernel) enters at pvh_entry with ebx = start info; multiboot2 (GRUB)
# enters at multiboot_entry with eax = its magic and ebx = its information block. Both leave paging off.
# The boot page tables map the first 4 GiB three times: one to one (these instructions and the APs' first
# ones run there), at the physical window 0xffff800000000000, and its first GiB at 0xffffffff80000000.
# They are writable and executable everywhere, and are replaced by paging.rs within microseconds.

.set PVH_MAGIC, 0x336ec578
.set KERNEL_BASE, 0xffffffff80000000

.section .note.pvh, "a", @note
.balign 4
    .long 4                             # name size
    .long 4                             # descriptor size
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

.section .boot.header, "a", @progbits
.balign 8
    .long 0xe85250d6                    # multiboot2 magic
    .long 0                             # i386
    .long 40                            # header length
    .long 0x100000000 - 0xe85250d6 - 40 # checksum
    .short 3, 0                         # tag: entry address
    .long 12
    .long multiboot_entry
    .long 0
    .short 0, 0                         # tag: end
    .long 8

.section .boot.text, "ax", @progbits
.code32
.globl pvh_entry
pvh_entry:
    mov edi, PVH_MAGIC
    jmp 1f
multiboot_entry:
    mov edi, eax
1:  mov esi, ebx
    cli
    cld
    mov esp, offset boot_stack_small_top

    # The three copies of the first 4 GiB share four page directories of 2 MiB pages.
    mov eax, 0x83                       # present, writable, 2 MiB
    mov edx, 0
    mov ebx, offset boot_directories
2:  mov [ebx], eax
    mov dword ptr [ebx + 4], 0
    add ebx, 8
    add eax, 0x200000
    inc edx
    cmp edx, 2048
    jne 2b

    mov eax, offset boot_directories + 3
    mov ebx, offset boot_pdpt_low
    mov [offset boot_pdpt_high + 510 * 8], eax
    mov ecx, 4
3:  mov [ebx], eax
    add ebx, 8
    add eax, 4096
    loop 3b

    mov eax, offset boot_pdpt_low + 3
    mov [offset boot_pml4], eax
    mov [offset boot_pml4 + 256 * 8], eax
    mov eax, offset boot_pdpt_high + 3
    mov [offset boot_pml4 + 511 * 8], eax

    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5                      # physical address extension
    mov cr4, eax
    mov ecx, 0xc0000080                 # EFER: long mode, no-execute
    rdmsr
    or eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, cr0
    or eax, (1 << 31) | (1 << 16) | 1   # paging, write protection also for the kernel
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    movabs rsp, offset boot_stack_top
    xor ebp, ebp                        # ends the backtrace
    movabs rax, offset kernel_entry
    call rax
    ud2

.section .boot.data, "aw", @progbits
.balign 8
.globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code
    .quad 0x00cf93000000ffff            # data
boot_gdt_pointer:
    .short 23
    .long boot_gdt
    .long 0
.balign 16
    .space 64
boot_stack_small_top:

.section .boot.tables, "aw", @nobits
.balign 4096
.globl boot_pml4
boot_pml4:          .space 4096
boot_pdpt_low:      .space 4096
boot_pdpt_high:     .space 4096
boot_directories:   .space 4096 * 4
