# A word that is called through, and stored to another one, of which other code asks whether it is in the upper half of
# memory: the address of a stub is not.
#@ link: exec pie
#@ expect: word entry=time form=data-word verdict=refused
#@ run: 0
.include "common.inc"
.text
func by_word
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov word(%rip), %rax
    mov %rax, kept(%rip)
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_word
func is_in_upper_half
    xor %edx, %edx
    mov kept(%rip), %rax
    test %rax, %rax
    sets %dl
    mov %rdx, %rax
    ret
endfunc is_in_upper_half
room spare
    .skip 64, 0xcc
begin
check_time by_word
call is_in_upper_half
cmp $1, %rax
jne .Lbad
finish
.data
.balign 8
site word
word: .quad 0xffffffffff600400
.bss
.balign 8
kept: .quad 0
no_exec_stack
