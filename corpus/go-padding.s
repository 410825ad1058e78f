# A Go program whose functions have symbols: the padding between them is no room for a stub, since Go's table of functions
# tells nothing of it, and its run-time wants to know of every address where a signal interrupts.
#@ link: exec
#@ expect: word entry=time form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
calls_word by_word, word
.skip 32, 0xcc
func behind
    ret
endfunc behind
.Lend:
begin
check_time by_word
finish
.section .gopclntab, "a"
.balign 8
    .byte 0xfb, 0xff, 0xff, 0xff, 0, 0, 1, 8
    .quad 2
    .quad by_word, 0
    .quad behind, 0
    .quad .Lend
.data
.balign 8
site word
word: .quad 0xffffffffff600400
no_exec_stack
