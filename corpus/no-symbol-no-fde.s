# Code without a symbol and without an FDE, between functions that have both; only a call reaches it.
#@ expect: bare entry=time form=direct-call verdict=patch|unproven reach=always
#@ run: 0
.include "common.inc"
.text
func before
    xor %eax, %eax
    ret
endfunc before
    .p2align 4
.Lbare:
    push %rbx
    mov %rdi, %rbx
    xor %edi, %edi
site bare
    mov $0xffffffffff600400, %rax
    call *%rax
    test %rbx, %rbx
    je 1f
    mov %rax, (%rbx)
1:  pop %rbx
    ret
    .p2align 4
begin
check_time .Lbare
finish
no_exec_stack
