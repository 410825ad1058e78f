# One constant out of a loop, as compilers do it: in a callee-saved register, many calls; and two constants
# in two registers with their calls mixed.
#@ expect: loop entry=time form=direct-call verdict=patch strategy=stub reach=always function=time_in_loop
#@ expect: first entry=gettimeofday form=direct-call verdict=patch strategy=stub reach=always function=two_hoisted
#@ expect: second entry=time form=direct-call verdict=patch strategy=stub reach=always function=two_hoisted
#@ run: 0
.include "common.inc"
.text
func time_in_loop
    push %r13
    .cfi_def_cfa_offset 16
    .cfi_offset r13, -16
    push %rbx
    .cfi_def_cfa_offset 24
    .cfi_offset rbx, -24
    push %rbp
    .cfi_def_cfa_offset 32
    .cfi_offset rbp, -32
    mov %rdi, %rbp
    mov $5, %ebx
site loop
    mov $0xffffffffff600400, %r13
1:  mov %rbp, %rdi
    call *%r13
    sub $1, %ebx
    jne 1b
    mov %rbp, %rdi
    call *%r13
    pop %rbp
    .cfi_def_cfa_offset 24
    pop %rbx
    .cfi_def_cfa_offset 16
    pop %r13
    .cfi_def_cfa_offset 8
    ret
endfunc time_in_loop
func two_hoisted
    push %rbx
    .cfi_def_cfa_offset 16
    push %r14
    .cfi_def_cfa_offset 24
    push %r15
    .cfi_def_cfa_offset 32
    mov %rdi, %r15
site first
    mov $0xffffffffff600000, %rbx
site second
    mov $0xffffffffff600400, %r14
    xor %esi, %esi
    call *%rbx
    xor %edi, %edi
    call *%r14
    mov %r15, %rdi
    xor %esi, %esi
    call *%rbx
    xor %edi, %edi
    call *%r14
    xor %eax, %eax
    pop %r15
    .cfi_def_cfa_offset 24
    pop %r14
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc two_hoisted
room room_1
room room_2
begin
check_time time_in_loop
check_gettimeofday two_hoisted
finish
no_exec_stack
