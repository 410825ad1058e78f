# A word that is called through, and that code copies together with its neighbour: where the word itself cannot change,
# the copy is called by code unseen.
#@ link: exec pie static-pie dso
#@ expect(exec): word entry=time form=data-word verdict=patch strategy=stub
#@ expect(pie,static-pie,dso): word entry=time form=data-word verdict=refused
#@ expect: beside entry=gettimeofday form=data-word verdict=unproven
#@ run(exec): 0
.include "common.inc"
.text
calls_word by_word, word
func by_copy
    sub $24, %rsp
    .cfi_def_cfa_offset 32
    movdqa word(%rip), %xmm0
    lea kept(%rip), %rcx
    movups %xmm0, (%rcx)
    call *kept(%rip)
    add $24, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_copy
room spare
    .skip 64, 0xcc
begin
check_time by_word
check_time by_copy
finish
.data
.balign 16
site word
word: .quad 0xffffffffff600400
site beside
    .quad 0xffffffffff600000
kept: .fill 2, 8, 1
no_exec_stack
