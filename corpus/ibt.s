# A file with the IBT property: stubs are reached by indirect calls and must begin with endbr64.
#@ expect: hoisted entry=time form=direct-call verdict=patch strategy=stub reach=always function=time_twice
#@ stub-prefix: f30f1efa
#@ run: 0
.include "common.inc"
.text
func time_twice
    endbr64
    push %rbx
    .cfi_def_cfa_offset 16
    push %r12
    .cfi_def_cfa_offset 24
    sub $8, %rsp
    .cfi_def_cfa_offset 32
    mov %rdi, %r12
site hoisted
    mov $0xffffffffff600400, %rbx
    call *%rbx
    mov %r12, %rdi
    call *%rbx
    add $8, %rsp
    .cfi_def_cfa_offset 24
    pop %r12
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc time_twice
begin
check_time time_twice
finish
.section .note.gnu.property, "a"
.balign 8
.long 4, 16, 5
.asciz "GNU"
.long 0xc0000002, 4, 1, 0
no_exec_stack
