# Pointers in data that code computes with, or writes a part of: another entry is called then, which a stub does not know.
#@ expect: word entry=gettimeofday form=data-word verdict=refused
#@ expect: partly entry=gettimeofday form=data-word verdict=refused
#@ run: 0
.include "common.inc"
.text
func by_word
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    xor %esi, %esi
    mov word(%rip), %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_word
func next_word
    addq $0x400, word(%rip)
    ret
endfunc next_word
func by_part
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    xor %esi, %esi
    mov partly(%rip), %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_part
func next_part
    movb $4, 1+partly(%rip)
    ret
endfunc next_part
begin
check_gettimeofday by_word
check_gettimeofday by_part
finish
.data
.balign 8
    .skip 64, 0xcc
site word
word: .quad 0xffffffffff600000
    .quad 0x1234
site partly
partly: .quad 0xffffffffff600000
no_exec_stack
