# A computed goto by distances between labels, of two bytes: the second label stands between the constant and its call,
# and no address of it is anywhere.
#@ expect: between entry=time form=direct-call verdict=patch strategy=stub reach=always|fallback function=time_or_own
#@ run: 0
.include "common.inc"
.text
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
func time_or_own
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov index(%rip), %rdx
    and $1, %edx
    lea distances(%rip), %rcx
    movswq (%rcx,%rdx,2), %rdx
    lea .Lfirst(%rip), %rcx
    lea own_time(%rip), %rax
    add %rcx, %rdx
    jmp *%rdx
.Lfirst:
site between
    mov $0xffffffffff600400, %rax
.Lsecond:
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_or_own
room room_1
begin
check_time time_or_own
movq $1, index(%rip)
check_time time_or_own
finish
.section .rodata
distances: .short 0, .Lsecond - .Lfirst
.bss
.balign 8
index: .quad 0
no_exec_stack
