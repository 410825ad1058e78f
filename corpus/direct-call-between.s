# Instructions between the constant and the call: argument set-up, stores, a branch, and four as in libjvm.
#@ expect: args entry=gettimeofday form=direct-call verdict=patch reach=always function=with_arguments
#@ expect: branch entry=time form=direct-call verdict=patch reach=always function=with_branch
#@ expect: jvm entry=getcpu form=direct-call verdict=patch reach=always function=as_libjvm
#@ expect: copy entry=time form=direct-call verdict=patch reach=always function=through_copies
#@ run: 0
.include "common.inc"
.text
func with_arguments
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
site args
    mov $0xffffffffff600000, %rax
    sub $32, %rsp
    .cfi_def_cfa_offset 48
    mov %rdi, %rbx
    mov %rsp, %rdi
    xor %esi, %esi
    call *%rax
    mov (%rsp), %rdx
    mov %rdx, (%rbx)
    mov 8(%rsp), %rdx
    mov %rdx, 8(%rbx)
    add $32, %rsp
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc with_arguments
func with_branch
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site branch
    mov $0xffffffffff600400, %rax
    test %rdi, %rdi
    je 1f
    movq $0, (%rdi)
1:  call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc with_branch
func as_libjvm
    push %rbp
    .cfi_def_cfa_offset 16
    mov %rsp, %rbp
    .cfi_offset rbp, -16
    .cfi_def_cfa_register rbp
    sub $16, %rsp
    mov %rdi, -16(%rbp)
    mov %rsi, -8(%rbp)
site jvm
    mov $0xffffffffff600800, %rax
    xor %edx, %edx
    mov -8(%rbp), %rsi
    mov -16(%rbp), %rdi
    nop
    call *%rax
    leave
    .cfi_def_cfa rsp, 8
    ret
endfunc as_libjvm
func through_copies
    push %r12
    .cfi_def_cfa_offset 16
site copy
    mov $0xffffffffff600400, %rcx
    mov %rcx, %r12
    xor %ecx, %ecx
    mov %r12, %rax
    xor %r12d, %r12d
    call *%rax
    pop %r12
    .cfi_def_cfa_offset 8
    ret
endfunc through_copies
begin
check_gettimeofday with_arguments
check_time with_branch
check_getcpu as_libjvm
check_time through_copies
finish
no_exec_stack
