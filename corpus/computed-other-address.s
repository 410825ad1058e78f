# Ten megabytes less than an address that is known: a function's, which gcc reaches so where it also compares the higher
# one. It is no entry.
#@ may: other entry=gettimeofday form=other-instruction verdict=harmless
#@ expect: clock entry=time form=direct-call verdict=patch
#@ run: 0
.include "common.inc"
.text
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
func call_it
    jmp *%rdx
endfunc call_it
func choose
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    lea own_time + 0xa00000(%rip), %rax
site other
    lea -0xa00000(%rax), %rdx
    cmp $0xbff, %rax
    jbe 1f
    call call_it
1:  pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc choose
func clock
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site clock
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc clock
begin
check_time clock
check_time choose
finish
no_exec_stack
