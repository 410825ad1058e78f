# The wrappers of glibc 2.5 to 2.13: constant and call side by side in rax.
#@ expect: gtod entry=gettimeofday form=direct-call verdict=patch strategy=in-place reach=always function=old_gettimeofday
#@ expect: time entry=time form=direct-call verdict=patch strategy=in-place reach=always function=old_time
#@ expect: cpu entry=getcpu form=direct-call verdict=patch strategy=in-place reach=always function=old_getcpu
#@ run: 0
.include "common.inc"
.text
func old_gettimeofday
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site gtod
    mov $0xffffffffff600000, %rax
    call *%rax
    cmp $-4095, %eax
    jae 1f
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
1:  .cfi_def_cfa_offset 16
    mov $-1, %eax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc old_gettimeofday
func old_time
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site time
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc old_time
func old_getcpu
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site cpu
    mov $0xffffffffff600800, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc old_getcpu
begin
check_gettimeofday old_gettimeofday
check_time old_time
check_getcpu old_getcpu
finish
no_exec_stack
