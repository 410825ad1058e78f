# The call's or jump's own operand is the word in memory.
#@ link: exec
#@ expect: call entry=time form=data-word verdict=patch strategy=stub
#@ expect: jump entry=gettimeofday form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
func calls_word
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call *word_call(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc calls_word
func jumps_word
    xor %esi, %esi
    jmp *word_jump(%rip)
endfunc jumps_word
begin
check_time calls_word
check_gettimeofday jumps_word
finish
.data
.balign 8
site call
word_call: .quad 0xffffffffff600400
site jump
word_jump: .quad 0xffffffffff600000
no_exec_stack
