# A data word in a file that is loaded anywhere: the word cannot take a stub's address without a relocation.
#@ link: pie static-pie dso
#@ expect: word entry=time form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
func by_word
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov word(%rip), %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_word
begin
check_time by_word
finish
.data
.balign 8
site word
word: .quad 0xffffffffff600400
no_exec_stack
