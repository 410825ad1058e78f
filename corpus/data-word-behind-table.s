# The page's address as a number, right behind a table of pointers that are called by an index: nothing tells where
# the table ends but that other code reads the number alone, and does not call it.
#@ link: exec
#@ expect: word entry=time form=data-word verdict=patch strategy=stub
#@ expect: lowest entry=gettimeofday form=data-word verdict=unproven
#@ run: 0
.include "common.inc"
.text
func by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov number(%rip), %rcx
    call *table(,%rcx,8)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_index
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
func begin_of_page
    mov lowest_address(%rip), %rax
    ret
endfunc begin_of_page
room spare
    .skip 64, 0xcc
begin
check_time by_index
call begin_of_page
neg %rax
cmp $0xa00000, %rax
jne .Lbad
finish
.data
.balign 8
table:
    .quad own_time
site word
    .quad 0xffffffffff600400
lowest_address:
site lowest
    .quad 0xffffffffff600000
number: .quad 1
no_exec_stack
