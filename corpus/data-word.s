# A pointer to an entry in initialised data of a fixed-address program, loaded and called: RIP-relative,
# by absolute address, and through another register with instructions between.
#@ link: exec
#@ expect: rip entry=time form=data-word verdict=patch strategy=stub
#@ expect: abs entry=gettimeofday form=data-word verdict=patch strategy=stub
#@ expect: moved entry=getcpu form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
calls_word by_rip, word_rip
func by_address
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    xor %esi, %esi
    mov word_abs, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_address
func by_copy
    push %rbx
    .cfi_def_cfa_offset 16
    mov word_moved(%rip), %rcx
    xor %edx, %edx
    mov %rcx, %rbx
    call *%rbx
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc by_copy
room room_1
room room_2
begin
check_time by_rip
check_gettimeofday by_address
check_getcpu by_copy
finish
.data
.balign 8
.quad 1
site rip
word_rip: .quad 0xffffffffff600400
site abs
word_abs: .quad 0xffffffffff600000
.quad 2
site moved
word_moved: .quad 0xffffffffff600800
no_exec_stack
