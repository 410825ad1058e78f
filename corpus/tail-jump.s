# Tail calls: padding behind, the next function right behind, and the 3-byte jump through r8.
#@ expect: padded entry=time form=tail-jump verdict=patch reach=always function=time_padded
#@ expect: tight entry=gettimeofday form=tail-jump verdict=patch reach=always function=gettimeofday_tight
#@ expect: long entry=time form=tail-jump verdict=patch reach=always function=time_r8
#@ expect: far entry=getcpu form=tail-jump verdict=patch reach=always function=getcpu_far
#@ run: 0
.include "common.inc"
.text
func time_padded
site padded
    mov $0xffffffffff600400, %rax
    jmp *%rax
endfunc time_padded
    .p2align 5
    .type gettimeofday_tight, @function
gettimeofday_tight:
    .cfi_startproc
    xor %esi, %esi
site tight
    mov $0xffffffffff600000, %rax
    jmp *%rax
    .cfi_endproc
    .size gettimeofday_tight, . - gettimeofday_tight
    .type time_r8, @function
time_r8:
    .cfi_startproc
site long
    mov $0xffffffffff600400, %r8
    jmp *%r8
    .cfi_endproc
    .size time_r8, . - time_r8
    .type getcpu_far, @function
getcpu_far:
    .cfi_startproc
site far
    mov $0xffffffffff600800, %rdx
    mov %rdx, %rax
    xor %edx, %edx
    jmp *%rax
    .cfi_endproc
    .size getcpu_far, . - getcpu_far
begin
check_time time_padded
check_gettimeofday gettimeofday_tight
check_time time_r8
check_getcpu getcpu_far
finish
no_exec_stack
