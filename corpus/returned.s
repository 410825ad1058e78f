# The address is returned to callers that call it, or jump to it.
#@ expect: called entry=time form=direct-call verdict=patch strategy=stub reach=always function=old_time
#@ expect: jumped entry=time form=tail-jump verdict=patch strategy=stub reach=always function=other_time
#@ run: 0
.include "common.inc"
.text
func old_time
site called
    mov $0xffffffffff600400, %rax
    ret
endfunc old_time
func by_call
    push %rdi
    .cfi_def_cfa_offset 16
    call old_time
    mov (%rsp), %rdi
    call *%rax
    pop %rdi
    .cfi_def_cfa_offset 8
    ret
endfunc by_call
func other_time
site jumped
    mov $0xffffffffff600400, %rax
    ret
endfunc other_time
func by_jump
    push %rdi
    .cfi_def_cfa_offset 16
    call other_time
    pop %rdi
    .cfi_def_cfa_offset 8
    jmp *%rax
endfunc by_jump
room space
begin
check_time by_call
check_time by_jump
finish
no_exec_stack
