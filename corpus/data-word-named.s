# Words that data points to, in a file that is loaded anywhere. Where the pointer stands with the vDSO's name of the
# function, what is found there by this name is stored by it, as Go does; without a name, code unseen may read by it.
#@ link: pie dso
#@ expect: word entry=gettimeofday form=data-word verdict=patch strategy=stub
#@ expect: other entry=time form=data-word verdict=refused
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
calls_word by_other, other
begin
check_gettimeofday by_word
finish
.section .rodata
name: .ascii "__vdso_gettimeofday"
.data
.balign 8
# Go exports all names for plugins, this one, too.
.globl exported_word
.type exported_word, @object
.size exported_word, 8
exported_word:
site word
word: .quad 0xffffffffff600000
    .quad 0x1234
site other
other: .quad 0xffffffffff600400
    .quad 0x1234
keys:
    .quad name, 19
    .long 0x315ca59, 0xb01bca00
    .quad word
    .quad 0, 19
    .long 0x315ca59, 0xb01bca00
    .quad other
no_exec_stack
