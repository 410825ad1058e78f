# A word with the address that no code is seen to call through: it may be read by address arithmetic.
#@ expect: word entry=time form=data-word|data verdict=unproven
.include "common.inc"
.text
begin
finish
.data
.balign 8
.quad 1
site word
unread: .quad 0xffffffffff600400
.quad 2
no_exec_stack
