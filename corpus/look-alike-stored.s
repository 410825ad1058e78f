# As in valgrind's redirection table: the address is stored as a key beside a value, and never loaded to be called.
#@ expect: key entry=gettimeofday form=stored-constant verdict=unproven|harmless function=fill_table
#@ expect: direct entry=time form=stored-constant verdict=unproven|harmless function=fill_table
#@ expect: heap entry=getcpu form=stored-constant verdict=unproven|harmless function=fill_heap
.include "common.inc"
.text
func fill_table
site key
    mov $0xffffffffff600000, %rax
    mov %rax, table(%rip)
    movq $7, table+8(%rip)
site direct
    movq $0xffffffffff600400, table+16(%rip)
    movq $8, table+24(%rip)
    ret
endfunc fill_table
func fill_heap
site heap
    movq $0xffffffffff600800, 8(%rdi)
    ret
endfunc fill_heap
begin
finish
.bss
.balign 8
table: .skip 32
no_exec_stack
