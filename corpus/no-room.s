# The executable segment has no padding and fills its last page: the file is made longer for a stub.
#@ link: exec pie static-pie
#@ linker: bfd lld
#@ ldflags: -z separate-code
#@ expect: full entry=time form=direct-call verdict=patch strategy=stub reach=always
#@ run: 0
.include "common.inc"
.text
    .type _start, @function
    .globl _start
_start:
    .cfi_startproc
    push %rbx
    push %r12
    mov $2, %r12d
site full
    mov $0xffffffffff600400, %rbx
1:  xor %edi, %edi
    call *%rbx
    dec %r12d
    jne 1b
    mov $231, %eax
    xor %edi, %edi
    syscall
    # unreachable, but neither nop, int3 nor zero
    .balign 4096, 0xf4
    .cfi_endproc
    .size _start, . - _start
no_exec_stack
