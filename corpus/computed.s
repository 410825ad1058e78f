# The entry is computed from the page's address and an index that the data flow knows.
#@ expect: or entry=time form=computed verdict=patch reach=always function=time_or
#@ expect: add entry=time form=computed verdict=patch reach=always function=time_add
#@ run: 0
.include "common.inc"
.text
func time_or
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $1, %eax
    shl $10, %eax
site or
    or $0xffffffffff600000, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_or
func time_add
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $0x400, %eax
site add
    add $0xffffffffff600000, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_add
begin
check_time time_or
check_time time_add
finish
no_exec_stack
