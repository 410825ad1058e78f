# As compared-elsewhere.s, but nothing tells of the function that compares: no symbol, no FDE, and only a pointer in data
# leads there.
#@ link: exec pie
#@ expect: stored entry=time form=direct-call verdict=refused function=choose
#@ may: compared entry=time form=compare verdict=harmless
#@ run: 0
.include "common.inc"
.text
    xor %eax, %eax
site compared
    cmpq $0xffffffffff600400, 8(%rdi)
    jne 1f
    inc %eax
1:  ret
func choose
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
endfunc choose
begin
check_time choose
lea structure(%rip), %rdi
call *is_entry(%rip)
test %eax, %eax
je .Lbad
finish
.data
.balign 8
    .quad 0x1234
is_entry: .quad .text
.bss
.balign 8
structure: .quad 0, 0
no_exec_stack
