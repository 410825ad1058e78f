# The resolvers of glibc 2.15 to 2.21: the vDSO's function, else the page's.
#@ link: pie dso
#@ ldflags: -z now
#@ expect: time entry=time form=ifunc-fallback verdict=patch strategy=stub reach=fallback function=time_ifunc
#@ expect: gtod entry=gettimeofday form=ifunc-fallback verdict=patch strategy=stub reach=fallback function=gettimeofday_ifunc
#@ run(pie,symbols): 0
#@ run(pie,stripped): 0
#@ run(pie,headerless): 0
.include "common.inc"
.text
func vdso_lookup
    mov vdso_function(%rip), %rax
    ret
endfunc vdso_lookup
.macro resolver name, label, address
    .p2align 4
    .globl \name
    .hidden \name
    .type \name, @gnu_indirect_function
\name:
    .cfi_startproc
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call vdso_lookup
site \label
    mov $\address, %rdx
    test %rax, %rax
    cmove %rdx, %rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size \name, . - \name
.endm
resolver time_ifunc, time, 0xffffffffff600400
resolver gettimeofday_ifunc, gtod, 0xffffffffff600000
begin
check_time time_ifunc
check_gettimeofday gettimeofday_ifunc
finish
.bss
.balign 8
vdso_function: .quad 0
no_exec_stack
