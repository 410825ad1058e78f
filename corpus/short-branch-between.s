# Hand-written code: a neighbour enters the function by a short jump, right at the call, with its own target.
#@ expect: entered entry=time form=direct-call verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
room room_1
func by_constant
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site entered
    mov $0xffffffffff600400, %rax
.Lcall:
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_constant
func by_neighbour
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    lea seven(%rip), %rax
    jmp .Lcall
endfunc by_neighbour
func seven
    mov $7, %eax
    ret
endfunc seven
begin
check_time by_constant
call by_neighbour
cmp $7, %rax
jne .Lbad
finish
no_exec_stack
