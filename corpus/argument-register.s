# The constant is in the register of the first argument when it is called: the kernel gets the page's own
# address as the pointer, and faults. A patched call would write where the caller's
# pointer leads.
#@ expect: rdi entry=time form=direct-call verdict=refused
.include "common.inc"
.text
func time_rdi
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site rdi
    mov $0xffffffffff600400, %rdi
    call *%rdi
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_rdi
begin
finish
no_exec_stack
