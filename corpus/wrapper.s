# A function that does nothing but make the call, as glibc's time(): with the page for the vDSO a jump may stand for it,
# unless something leads behind its first instruction.
#@ expect: plain entry=time form=direct-call verdict=patch strategy=in-place reach=always function=plain
#@ expect: entered entry=time form=direct-call verdict=patch strategy=in-place reach=always function=entered
#@ run: 0
.include "common.inc"
.text
func plain
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site plain
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc plain
func entered
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site entered
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc entered
# Makes the room itself, and goes on with the constant of the other.
func enters
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    jmp .Lsite_entered
endfunc enters
begin
check_time plain
check_time entered
check_time enters
finish
no_exec_stack
