/* The empty kernel: what a boot costs that does nothing. QEMU enters it as it enters ours (PVH), it
   prints a prompt on the first serial port and halts. `./run.sh bench boot` stands beside it. */
    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18              /* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start
start:
    movl $prompt, %esi
    movw $0x3f8, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  cli
    hlt
    jmp 2b
prompt:
    .asciz "empty# "

    .section .note.GNU-stack, "", @progbits
