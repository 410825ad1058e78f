# Two constants meet at one call by a branch.
#@ expect: left entry=gettimeofday form=direct-call verdict=patch reach=always function=either
#@ expect: right entry=time form=direct-call verdict=patch reach=always function=either
#@ run: 0
.include "common.inc"
.text
# either(buffer, 0, which)
func either
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    test %edx, %edx
    je 1f
site left
    mov $0xffffffffff600000, %rax
    jmp 2f
1:
site right
    mov $0xffffffffff600400, %rax
2:  call *%rax
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
begin
check_gettimeofday as_gettimeofday
check_time as_time
finish
no_exec_stack
