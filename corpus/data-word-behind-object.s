# The page's address as a number, right behind a table of pointers that are called by an index, and read by an index itself:
# symbols tell where the table ends.
#@ link: exec
#@ expect(symbols): word entry=time form=data-word verdict=patch strategy=stub
#@ expect(symbols): number entry=gettimeofday form=data-word verdict=unproven
#@ may: word entry=time form=data-word verdict=patch|unproven
#@ may: number entry=gettimeofday form=data-word verdict=patch|unproven
#@ run(symbols): 0
.include "common.inc"
.text
func by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov one(%rip), %rcx
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
func number_by_index
    mov one(%rip), %rcx
    dec %rcx
    mov numbers(,%rcx,8), %rax
    ret
endfunc number_by_index
room spare
    .skip 64, 0xcc
begin
check_time by_index
call number_by_index
neg %rax
cmp $0xa00000, %rax
jne .Lbad
finish
.data
.balign 8
.type table, @object
.size table, 16
table:
    .quad own_time
site word
    .quad 0xffffffffff600400
.type numbers, @object
.size numbers, 16
numbers:
site number
    .quad 0xffffffffff600000
one: .quad 1
no_exec_stack
