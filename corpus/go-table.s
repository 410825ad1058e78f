# A function that only Go's table tells of: where nothing tells where a function begins, what is in its frame is not
# followed. Go programs have symbols for all their functions or for none.
#@ link: exec
#@ expect(stripped,headerless): slot entry=time form=stack-slot verdict=patch strategy=in-place reach=always
#@ expect(symbols): slot entry=time form=direct-call verdict=unproven
#@ run(headerless): 0
#@ run(stripped): 0
.include "common.inc"
.text
.p2align 4
.Lbefore:
    lea 1(%rdi), %rax
    ret
    .skip 6, 0xcc
.Lin_frame:
    sub $24, %rsp
    xor %esi, %esi
site slot
    movq $0xffffffffff600400, 8(%rsp)
    mov 8(%rsp), %rax
    call *%rax
    add $24, %rsp
    ret
.p2align 4
.Lbehind:
    ret
    .skip 64, 0xcc
.Lend:
func by_pointer
    lea .Lin_frame+1(%rip), %rax
    dec %rax
    jmp *%rax
endfunc by_pointer
begin
check_time by_pointer
finish
.section .gopclntab, "a"
.balign 8
    .byte 0xfb, 0xff, 0xff, 0xff, 0, 0, 1, 8
    .quad 3
    .quad .Lbefore, 0
    .quad .Lin_frame, 0
    .quad .Lbehind, 0
    .quad .Lend
no_exec_stack
