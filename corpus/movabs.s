# The 10-byte movabs (-mcmodel=large, hand-written code), called and jumped through.
#@ expect: call entry=time form=direct-call verdict=patch reach=always function=time_movabs
#@ expect: hoisted entry=gettimeofday form=direct-call verdict=patch strategy=stub reach=always function=gettimeofday_movabs
#@ expect: jump entry=getcpu form=tail-jump verdict=patch reach=always function=getcpu_movabs
#@ run: 0
.include "common.inc"
.text
func time_movabs
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site call
    movabs $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_movabs
func gettimeofday_movabs
    push %r12
    .cfi_def_cfa_offset 16
    push %rbx
    .cfi_def_cfa_offset 24
    sub $8, %rsp
    .cfi_def_cfa_offset 32
    mov %rdi, %rbx
site hoisted
    movabs $0xffffffffff600000, %r12
    xor %esi, %esi
    call *%r12
    mov %rbx, %rdi
    xor %esi, %esi
    call *%r12
    add $8, %rsp
    .cfi_def_cfa_offset 24
    pop %rbx
    .cfi_def_cfa_offset 16
    pop %r12
    .cfi_def_cfa_offset 8
    ret
endfunc gettimeofday_movabs
func getcpu_movabs
    xor %edx, %edx
site jump
    movabs $0xffffffffff600800, %rcx
    jmp *%rcx
endfunc getcpu_movabs
begin
check_time time_movabs
check_gettimeofday gettimeofday_movabs
check_getcpu getcpu_movabs
finish
no_exec_stack
