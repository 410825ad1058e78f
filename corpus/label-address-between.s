# Computed gotos to right before the call, with another target: the label's address stands in data, or is
# taken by lea.
#@ expect: pointer entry=time form=direct-call verdict=patch strategy=stub
#@ expect: taken entry=gettimeofday form=direct-call verdict=patch strategy=stub
#@ run(exec,pie): 0
.include "common.inc"
.text
room room_1
room room_2
func by_pointer
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    test %rdx, %rdx
    jne 1f
site pointer
    mov $0xffffffffff600400, %rax
.Lpointer:
    call *%rax
    add $8, %rsp
    .cfi_remember_state
    .cfi_def_cfa_offset 8
    ret
1:  .cfi_restore_state
    lea seven(%rip), %rax
    mov label(%rip), %rcx
    jmp *%rcx
endfunc by_pointer
func by_lea
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    test %rdx, %rdx
    jne 1f
site taken
    mov $0xffffffffff600000, %rax
.Ltaken:
    call *%rax
    add $8, %rsp
    .cfi_remember_state
    .cfi_def_cfa_offset 8
    ret
1:  .cfi_restore_state
    lea seven(%rip), %rax
    lea .Ltaken(%rip), %rcx
    jmp *%rcx
endfunc by_lea
func seven
    mov $7, %eax
    ret
endfunc seven
begin
check_time by_pointer
mov $1, %edx
call by_pointer
cmp $7, %rax
jne .Lbad
check_gettimeofday by_lea
mov $1, %edx
call by_lea
cmp $7, %rax
jne .Lbad
finish
.section .data.rel.ro, "aw"
.balign 8
label: .quad .Lpointer
no_exec_stack
