# As compared-distance.s, but nothing tells of the function that compares: no symbol, no FDE, and no address of it is
# anywhere.
#@ expect: stored entry=time form=direct-call verdict=refused function=keep
#@ run: 0
.include "common.inc"
.text
.Lhidden:
    mov 8(%rdi), %rax
    add $0xa00000, %rax
    cmp $0xfff, %rax
    setbe %al
    movzbl %al, %eax
    ret
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
begin
check_time keep
lea structure(%rip), %rdi
lea .Lhidden+1(%rip), %rax
dec %rax
call *%rax
test %eax, %eax
je .Lbad
finish
.bss
.balign 8
structure: .quad 0, 0
no_exec_stack
