# Code without optimisation: the constant goes through a slot of the frame; the second function joins it with
# another value there. The first store has no room for an address relative to itself.
#@ expect(exec): slot entry=time form=stack-slot verdict=patch strategy=stub reach=always function=time_o0
#@ expect(pie,static-pie,dso): slot entry=time form=stack-slot verdict=patch|refused reach=always function=time_o0
#@ expect: joined entry=gettimeofday form=stack-slot verdict=patch strategy=stub reach=fallback|always function=gettimeofday_o0
#@ run: 0
.include "common.inc"
.text
func time_o0
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $32, %rsp
    mov %rdi, -24(%rbp)
site slot
    movq $0xffffffffff600400, -8(%rbp)
    mov -24(%rbp), %rax
    mov -8(%rbp), %rdx
    mov %rax, %rdi
    call *%rdx
    leave
    .cfi_def_cfa rsp, 8
    ret
endfunc time_o0
func gettimeofday_o0
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $32, %rsp
    mov %rdi, -24(%rbp)
    mov vdso_function(%rip), %rax
    mov %rax, -8(%rbp)
    cmpq $0, -8(%rbp)
    jne 1f
site joined
    mov $0xffffffffff600000, %rax
    mov %rax, -8(%rbp)
1:  mov -24(%rbp), %rax
    mov -8(%rbp), %rdx
    mov $0, %esi
    mov %rax, %rdi
    call *%rdx
    leave
    .cfi_def_cfa rsp, 8
    ret
endfunc gettimeofday_o0
room room_1
room room_2
begin
check_time time_o0
check_gettimeofday gettimeofday_o0
finish
.bss
.balign 8
vdso_function: .quad 0
no_exec_stack
