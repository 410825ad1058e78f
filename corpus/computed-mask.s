# The address by a mask: gcc's way to choose between it and zero. What comes of it is not followed.
#@ expect: masked entry=time form=computed verdict=unproven
#@ run(exec): 0
.include "common.inc"
.text
func time_if
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    cmpq $1, wanted(%rip)
    sbb %rax, %rax
    not %rax
site masked
    and $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_if
begin
check_time time_if
finish
.data
.balign 8
wanted: .quad 1
no_exec_stack
