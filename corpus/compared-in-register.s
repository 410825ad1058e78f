# Called at once, and kept for others in a structure; they load it to compare it, with the address in a register or not, and
# in an array on the stack that is read by an index.
#@ expect: stored entry=time form=direct-call verdict=refused function=keep_time
#@ expect: kept entry=getcpu form=direct-call verdict=refused function=keep_getcpu
#@ expect: compared entry=time form=compare verdict=harmless function=is_time
#@ expect: indexed entry=getcpu form=compare verdict=harmless function=is_getcpu
#@ run: 0
.include "common.inc"
.macro keep name address
func keep_\name
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    lea structure(%rip), %r8
.ifc \name,time
site stored
.else
site kept
.endif
    mov $\address, %rax
    mov %rax, 8(%r8)
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc keep_\name
.endm
.text
keep time 0xffffffffff600400
keep getcpu 0xffffffffff600800
func is_time
    mov 8(%rdi), %rax
    xor %ecx, %ecx
    test %rax, %rax
    je 1f
site compared
    mov $0xffffffffff600400, %rdx
    cmp %rdx, %rax
    sete %cl
1:  mov %ecx, %eax
    ret
endfunc is_time
func is_getcpu
    movups (%rdi), %xmm0
    movups %xmm0, -16(%rsp)
    xor %eax, %eax
site indexed
    cmpq $0xffffffffff600800, -16(%rsp,%rsi,8)
    sete %al
    ret
endfunc is_getcpu
begin
check_time keep_time
lea structure(%rip), %rdi
call is_time
cmp $1, %eax
jne .Lbad
check_getcpu keep_getcpu
lea structure(%rip), %rdi
mov $1, %esi
call is_getcpu
cmp $1, %eax
jne .Lbad
finish
.bss
.balign 8
structure: .quad 0, 0
no_exec_stack
