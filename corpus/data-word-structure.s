# A pointer in a structure whose address is passed on: what reads it there is not seen. Where a symbol tells that it is one.
#@ link: pie static-pie dso
#@ expect(symbols): word entry=time form=data-word verdict=refused
#@ expect(stripped,headerless): word entry=time form=data-word verdict=patch|refused
.include "common.inc"
.text
# Away from where small numbers would lead.
    .skip 0x2000, 0xcc
calls_word by_word, word
func by_structure
    mov %rdi, %rsi
    lea structure(%rip), %rdi
    jmp by_argument
endfunc by_structure
func by_argument
    mov %rdi, %rdx
    mov %rsi, %rdi
    jmp *8(%rdx)
endfunc by_argument
room spare
    .skip 64, 0xcc
begin
check_time by_word
check_time by_structure
finish
.data
.balign 16
    .type structure, @object
structure: .quad 7
site word
word: .quad 0xffffffffff600400
    .size structure, . - structure
no_exec_stack
