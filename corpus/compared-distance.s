# Called at once, and kept for others in a structure and in an array; they ask whether what they find there is in the page,
# by its distance from the page's begin.
#@ expect: stored entry=time form=direct-call verdict=refused function=keep
#@ run: 0
.include "common.inc"
.text
func keep
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    lea structure(%rip), %rdx
site stored
    mov $0xffffffffff600400, %rax
    movq $1, (%rdx)
    mov %rax, 8(%rdx)
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc keep
func is_in_page
    mov 8(%rdi), %rax
    add $0xa00000, %rax
    cmp $0xfff, %rax
    setbe %al
    movzbl %al, %eax
    ret
endfunc is_in_page
begin
check_time keep
lea structure(%rip), %rdi
call is_in_page
test %eax, %eax
je .Lbad
finish
.bss
.balign 8
structure: .quad 0, 0
no_exec_stack
