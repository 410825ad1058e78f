# Every register but rsp (which cannot) holds the constant of a direct call; those that a callee must keep are
# saved around. rdi holds the first argument, so code with it is in argument-register.s.
#@ expect: rax entry=time form=direct-call verdict=patch reach=always function=time_rax
#@ expect: rcx entry=time form=direct-call verdict=patch reach=always function=time_rcx
#@ expect: rdx entry=time form=direct-call verdict=patch reach=always function=time_rdx
#@ expect: rbx entry=time form=direct-call verdict=patch reach=always function=time_rbx
#@ expect: rsi entry=time form=direct-call verdict=patch reach=always function=time_rsi
#@ expect: rbp entry=time form=direct-call verdict=patch reach=always function=time_rbp
#@ expect: r8 entry=time form=direct-call verdict=patch reach=always function=time_r8
#@ expect: r9 entry=time form=direct-call verdict=patch reach=always function=time_r9
#@ expect: r10 entry=time form=direct-call verdict=patch reach=always function=time_r10
#@ expect: r11 entry=time form=direct-call verdict=patch reach=always function=time_r11
#@ expect: r12 entry=time form=direct-call verdict=patch reach=always function=time_r12
#@ expect: r13 entry=time form=direct-call verdict=patch reach=always function=time_r13
#@ expect: r14 entry=time form=direct-call verdict=patch reach=always function=time_r14
#@ expect: r15 entry=time form=direct-call verdict=patch reach=always function=time_r15
#@ run: 0
.include "common.inc"
.text
# Only rax can have its call replaced in place whatever stands around it.
.macro scratch reg
func time_\reg
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site \reg
    mov $0xffffffffff600400, %\reg
    call *%\reg
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_\reg
.endm
.macro saved reg
func time_\reg
    push %\reg
    .cfi_def_cfa_offset 16
site \reg
    mov $0xffffffffff600400, %\reg
    call *%\reg
    pop %\reg
    .cfi_def_cfa_offset 8
    ret
endfunc time_\reg
.endm
.irp reg, rax, rcx, rdx, rsi, r8, r9, r10, r11
scratch \reg
.endr
.irp reg, rbx, rbp, r12, r13, r14, r15
saved \reg
.endr
begin
.irp reg, rax, rcx, rdx, rsi, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
check_time time_\reg
.endr
finish
no_exec_stack
