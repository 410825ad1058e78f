# An address that is called, and returned to the caller, too, as the second half of a structure: it must stay one.
#@ expect: second entry=time form=direct-call verdict=patch strategy=stub reach=always function=clock
#@ run: 0
.include "common.inc"
.text
func clock
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
site second
    mov $0xffffffffff600400, %rbx
    call *%rbx
    mov %rbx, %rdx
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc clock
func again
    push %rdi
    .cfi_def_cfa_offset 16
    call clock
    pop %rdi
    .cfi_def_cfa_offset 8
    jmp *%rdx
endfunc again
room space
begin
check_time clock
check_time again
finish
no_exec_stack
