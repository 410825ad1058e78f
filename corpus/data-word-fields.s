# Pointers that are fields of structures in tables, in a file with fixed addresses: read by an index that is a multiple of
# the structure's size, from zero, from one, or up to zero, or by a pointer that goes over the table.
#@ link: exec
#@ expect: indexed entry=time form=data-word verdict=patch strategy=stub
#@ expect: numbered entry=time form=data-word verdict=patch strategy=stub
#@ expect: from_one entry=time form=data-word verdict=patch strategy=stub
#@ expect: to_zero entry=time form=data-word verdict=patch strategy=stub
#@ expect: walked entry=time form=data-word verdict=patch strategy=stub
#@ expect: in_slot entry=time form=data-word verdict=patch strategy=stub
#@ expect: either entry=time form=data-word verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
func by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq one(%rip), %rax
    shl $4, %rax
    mov indexed_table(%rax), %rdx
    cmpb $0, (%rdx)
    je 1f
    call *indexed_table+8(%rax)
1:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_index
# With a number in each structure, which is added to.
func by_numbered
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq one(%rip), %rax
    lea (%rax,%rax,2), %rax
    addl $1, numbered_table+8(,%rax,8)
    call *numbered_table+16(,%rax,8)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_numbered
func from_one
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq one(%rip), %rax
    imul $24, %rax, %rax
    call *from_one_table-24+16(%rax)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc from_one
func to_zero
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    push %rdi
    .cfi_def_cfa_offset 24
    push %rax
    .cfi_def_cfa_offset 32
    mov $-32, %rbx
1:  mov 8(%rsp), %rdi
    call *to_zero_end+8(%rbx)
    add $16, %rbx
    jne 1b
    add $16, %rsp
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc to_zero
func by_pointer
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    push %rdi
    .cfi_def_cfa_offset 24
    push %rax
    .cfi_def_cfa_offset 32
    mov $walked_table, %ebx
1:  mov 8(%rsp), %rdi
    call *8(%rbx)
    add $16, %rbx
    cmp $walked_table+32, %rbx
    jne 1b
    add $16, %rsp
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc by_pointer
func by_pointer_in_slot
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $16, %rsp
    mov %rdi, -8(%rbp)
    movq $in_slot_table, -16(%rbp)
    jmp 2f
1:  mov -16(%rbp), %rax
    mov 8(%rax), %rdx
    mov -8(%rbp), %rdi
    call *%rdx
    addq $16, -16(%rbp)
2:  mov -16(%rbp), %rdx
    cmpq $0, (%rdx)
    jne 1b
    leave
    .cfi_def_cfa rsp, 8
    ret
endfunc by_pointer_in_slot
func by_either
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $own_calls, %eax
    mov $either_calls, %edx
    cmpl $0, one(%rip)
    cmovne %rdx, %rax
    call *8(%rax)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_either
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
room spare
    .skip 64, 0xcc
begin
check_time by_index
check_time by_numbered
check_time from_one
check_time to_zero
check_time by_pointer
check_time by_pointer_in_slot
check_time by_either
finish
.section .rodata
name: .asciz "name"
.data
.balign 8
one: .quad 1
    .quad 5
indexed_table:
    .quad name, own_time, name
site indexed
    .quad 0xffffffffff600400
    .quad 5
numbered_table:
    .quad name, 5, own_time, name, 6
site numbered
    .quad 0xffffffffff600400
    .quad 5
from_one_table:
    .quad name, 5
site from_one
    .quad 0xffffffffff600400
    .quad 5
to_zero_table:
    .quad name, own_time, name
site to_zero
    .quad 0xffffffffff600400
to_zero_end:
    .quad 5
walked_table:
    .quad name, own_time, name
site walked
    .quad 0xffffffffff600400
    .quad 5
in_slot_table:
    .quad name, own_time, name
site in_slot
    .quad 0xffffffffff600400
    .quad 0, 0
    .quad 5
own_calls:
    .quad name, own_time
    .fill 70, 8, 5
either_calls:
    .quad name
site either
    .quad 0xffffffffff600400
no_exec_stack
