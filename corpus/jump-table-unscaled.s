# A switch as gcc -O0 writes it: the index is scaled by a lea of its own. One case leads right to the call,
# with another target in the register.
#@ expect: entered entry=time form=direct-call verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
room room_1
# by_switch(buffer, 0, which)
func by_switch
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    lea seven(%rip), %rsi
    mov %edx, %eax
    lea 0(,%rax,4), %rcx
    lea table(%rip), %rax
    mov (%rcx,%rax), %eax
    cltq
    lea table(%rip), %rcx
    add %rcx, %rax
    jmp *%rax
.Lfirst:
    nop
site entered
    mov $0xffffffffff600400, %rsi
.Lsecond:
    call *%rsi
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_switch
func seven
    mov $7, %eax
    ret
endfunc seven
begin
check_time by_switch
mov $1, %edx
call by_switch
cmp $7, %rax
jne .Lbad
finish
.section .rodata
.balign 4
table: .long .Lfirst - table, .Lsecond - table
no_exec_stack
