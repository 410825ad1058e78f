# As in the rwlock assembly of old glibc: the symbol's size ends before the cold code that it branches to,
# and no FDE covers that code. Without the symbol only a call from _start leads there.
#@ expect(symbols): cold entry=gettimeofday form=direct-call verdict=patch reach=always
#@ expect(stripped,headerless): cold entry=gettimeofday form=direct-call verdict=patch|unproven reach=always
#@ run: 0
.include "common.inc"
.text
    .p2align 4
    .type locked, @function
locked:
    mov $1, %eax
    test %esi, %esi
    je .Lcold
    xor %eax, %eax
    ret
    .size locked, . - locked
.Lcold:
    push %r12
    push %rbx
    sub $24, %rsp
    mov %rdi, %rbx
    mov %rsp, %rdi
    xor %esi, %esi
site cold
    mov $0xffffffffff600000, %rax
    call *%rax
    mov (%rsp), %rdx
    mov %rdx, (%rbx)
    mov 8(%rsp), %rdx
    mov %rdx, 8(%rbx)
    add $24, %rsp
    pop %rbx
    pop %r12
    ret
begin
check_gettimeofday locked
finish
no_exec_stack
