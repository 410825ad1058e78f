# The start-up code of dietlibc: the constant waits in rdx across a call to a local function that keeps rdx,
# joins by cmov, and is stored to a global that is loaded and called later.
#@ expect: start entry=time form=stored-fallback verdict=patch strategy=stub reach=fallback|always function=start_up
#@ run: 0
.include "common.inc"
.text
func find_vdso
    push %rdx
    .cfi_def_cfa_offset 16
    xor %eax, %eax
    mov $3, %edx
1:  sub $1, %edx
    jne 1b
    pop %rdx
    .cfi_def_cfa_offset 8
    ret
endfunc find_vdso
func start_up
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site start
    mov $0xffffffffff600400, %rdx
    call find_vdso
    test %rax, %rax
    cmove %rdx, %rax
    mov %rax, kept_function(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc start_up
func kept_time
    jmp *kept_function(%rip)
endfunc kept_time
begin
    call start_up
check_time kept_time
finish
.bss
.balign 8
kept_function: .quad 0
no_exec_stack
