# Ten megabytes less than a number that is not known: where that is an entry's address, its call becomes one of a stub, and
# anything else stays what it is, as in a program that has its code twice, to write it and to run it.
#@ expect: difference entry=gettimeofday form=computed verdict=patch
#@ expect: sum entry=gettimeofday form=computed verdict=patch
#@ expect: address entry=gettimeofday form=computed verdict=patch
#@ run: 0
.include "common.inc"
.text
# Each calls what is ten megabytes below its fourth argument, with its first one and zero.
.macro calls_below name
func \name
    push %rdi
    .cfi_def_cfa_offset 16
.endm
.macro called name
    xor %esi, %esi
    call *%rax
    pop %rdi
    .cfi_def_cfa_offset 8
    ret
endfunc \name
.endm
calls_below by_difference
    mov %rcx, %rax
site difference
    sub $0xa00000, %rax
called by_difference
calls_below by_sum
    mov %rcx, %rax
site sum
    add $-0xa00000, %rax
called by_sum
calls_below by_address
site address
    lea -0xa00000(%rcx), %rax
called by_address
func own
    mov $42, %eax
    ret
endfunc own
# own_by_NAME() gives 42, as_time_by_NAME(buffer) the time.
.macro ways name
func own_by_\name
    lea own(%rip), %rcx
    add $0xa00000, %rcx
    jmp by_\name
endfunc own_by_\name
func as_time_by_\name
    mov distance(%rip), %ecx
    jmp by_\name
endfunc as_time_by_\name
.endm
ways difference
ways sum
ways address
begin
.irp name, difference, sum, address
    call own_by_\name
    cmp $42, %eax
    jne .Lbad
    check_time as_time_by_\name
.endr
finish
.data
distance: .long 0x400
no_exec_stack
