# A function returns the address of a word that is called through: its caller calls through it, too.
#@ link: exec pie static-pie dso
#@ expect(exec): word entry=time form=data-word verdict=patch strategy=stub
#@ expect(pie,static-pie,dso): word entry=time form=data-word verdict=refused
#@ run(exec): 0
.include "common.inc"
.text
# Away from where small numbers would lead.
    .skip 0x2000, 0xcc
calls_word by_word, word
func address
    lea word(%rip), %rax
    ret
endfunc address
func by_address
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call address
    call *(%rax)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_address
room spare
    .skip 64, 0xcc
begin
check_time by_word
check_time by_address
finish
.data
.balign 8
site word
word: .quad 0xffffffffff600400
no_exec_stack
