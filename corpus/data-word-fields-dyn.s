# Pointers that are fields of structures in tables, in a file that is loaded anywhere: the calls look at what they call.
# What is only compared, or whose table's address goes elsewhere, stays.
#@ link: pie
#@ expect: indexed entry=time form=data-word verdict=patch strategy=stub
#@ expect: from_one entry=time form=data-word verdict=patch strategy=stub
#@ expect: walked entry=time form=data-word verdict=patch strategy=stub
#@ expect: in_slot entry=time form=data-word verdict=patch strategy=stub
#@ expect: escaped entry=time form=data-word verdict=refused
#@ expect: counted entry=time form=data-word verdict=unproven
#@ run: 0
.include "common.inc"
.text
# Away from where small numbers would lead.
    .skip 0x2000, 0xcc
func by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq one(%rip), %rax
    shl $4, %rax
    lea indexed_table+8(%rip), %rdx
    add %rax, %rdx
    mov (%rdx), %rax
    call *%rax
# A byte of a register is no register that the look at what is called changes.
    test %rax, %rax
    sete %sil
    movzbl %sil, %esi
    sub %rsi, %rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_index
func from_one
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq one(%rip), %rax
    lea from_one_table(%rip), %rdx
    call *-8(%rdx,%rax,8)
    nop
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc from_one
func by_pointer
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    push %rdi
    .cfi_def_cfa_offset 24
    push %rbp
    .cfi_def_cfa_offset 32
    .cfi_offset rbp, -32
    lea walked_table(%rip), %rbx
    lea 32(%rbx), %rbp
1:  mov 8(%rsp), %rdi
    mov 8(%rbx), %rax
    call *%rax
    add $16, %rbx
    cmp %rbp, %rbx
    jne 1b
    pop %rbp
    .cfi_def_cfa_offset 24
    pop %rdi
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc by_pointer
# Behind a function, for the code that looks and for stubs.
room spare
    .skip 360, 0xcc
func by_pointer_in_slot
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $16, %rsp
    mov %rdi, -8(%rbp)
    lea in_slot_table(%rip), %rcx
    mov %rcx, -16(%rbp)
    jmp 2f
1:  mov -8(%rbp), %rdi
    mov -16(%rbp), %rax
    mov 8(%rax), %rdx
    call *%rdx
    addq $16, -16(%rbp)
2:  mov -16(%rbp), %rdx
    cmpq $0, (%rdx)
    jne 1b
    leave
    .cfi_def_cfa rsp, 8
    ret
endfunc by_pointer_in_slot
# The pointer that goes over the table is left in a slot for who is passed the slot's address.
func by_escaped
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $16, %rsp
    mov %rdi, -8(%rbp)
    lea escaped_table(%rip), %rax
    mov %rax, -16(%rbp)
    mov 8(%rax), %rax
    test %rax, %rax
    je 1f
    call *%rax
    lea -16(%rbp), %rdi
    mov -8(%rbp), %rsi
    call call_next
1:  leave
    .cfi_def_cfa rsp, 8
    ret
endfunc by_escaped
func call_next
    mov (%rdi), %rax
    mov 8(%rax), %rax
    mov %rsi, %rdi
    jmp *%rax
endfunc call_next
func count
    lea counted_table(%rip), %rdx
    lea 32(%rdx), %rcx
    xor %eax, %eax
1:  cmp %rdi, 8(%rdx)
    sete %sil
    movzbl %sil, %esi
    add %rsi, %rax
    add $16, %rdx
    cmp %rcx, %rdx
    jne 1b
    ret
endfunc count
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
begin
check_time by_index
check_time from_one
check_time by_pointer
check_time by_pointer_in_slot
mov $0x9ffc00, %edi
neg %rdi
call count
cmp $1, %eax
jne .Lbad
finish
.data
.balign 8
name: .quad 1
one: .quad 1
    .quad 5
indexed_table:
    .quad name, own_time, name
site indexed
    .quad 0xffffffffff600400
    .fill 70, 8, 5
from_one_table:
site from_one
    .quad 0xffffffffff600400
    .quad own_time
    .fill 70, 8, 5
walked_table:
    .quad name, own_time, name
site walked
    .quad 0xffffffffff600400
    .fill 70, 8, 5
in_slot_table:
    .quad name, own_time, name
site in_slot
    .quad 0xffffffffff600400
    .quad 0, 0
    .fill 70, 8, 5
escaped_table:
    .quad name
site escaped
    .quad 0xffffffffff600400
    .fill 70, 8, 5
counted_table:
    .quad name
site counted
    .quad 0xffffffffff600400
    .quad name, own_time
no_exec_stack
