# A data word in a file that is loaded anywhere: the word cannot take a stub's address without a relocation.
#@ link: pie static-pie dso
#@ expect: word entry=time form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
calls_word by_word, word
begin
check_time by_word
finish
.data
.balign 8
site word
word: .quad 0xffffffffff600400
no_exec_stack
