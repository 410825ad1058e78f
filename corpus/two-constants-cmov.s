# Two constants meet at one call by cmov; and a pointer from memory (the vDSO's) or the constant.
#@ expect: left entry=gettimeofday form=direct-call verdict=patch function=either
#@ expect: right entry=time form=direct-call verdict=patch function=either
#@ expect: fallback entry=time form=direct-call verdict=patch strategy=stub reach=fallback|always function=vdso_or_page
#@ run: 0
.include "common.inc"
.text
func either
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site left
    mov $0xffffffffff600000, %rax
site right
    mov $0xffffffffff600400, %rcx
    test %edx, %edx
    cmove %rcx, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc either
func as_gettimeofday
    mov $1, %edx
    jmp either
endfunc as_gettimeofday
func as_time
    xor %edx, %edx
    jmp either
endfunc as_time
func vdso_or_page
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov vdso_time(%rip), %rax
site fallback
    mov $0xffffffffff600400, %rdx
    test %rax, %rax
    cmove %rdx, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc vdso_or_page
begin
check_gettimeofday as_gettimeofday
check_time as_time
check_time vdso_or_page
finish
.bss
.balign 8
vdso_time: .quad 0
no_exec_stack
