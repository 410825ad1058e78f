# call, jmp and je rel32 straight into the page, from a program linked below 2 GiB.
#@ link: exec
#@ expect: call entry=time form=direct-branch verdict=patch reach=always function=time_call
#@ expect: jump entry=gettimeofday form=direct-branch verdict=patch reach=always function=gettimeofday_jump
#@ expect: conditional entry=time form=direct-branch verdict=patch reach=always function=time_if_zero
#@ run: 0
.include "common.inc"
.set page_gettimeofday, 0xffffffffff600000
.set page_time, 0xffffffffff600400
.text
func time_call
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site call
    call page_time
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc time_call
func gettimeofday_jump
    xor %esi, %esi
site jump
    jmp page_gettimeofday
endfunc gettimeofday_jump
func time_if_zero
    xor %eax, %eax
site conditional
    je page_time
    ret
endfunc time_if_zero
room room_1
begin
check_time time_call
check_gettimeofday gettimeofday_jump
check_time time_if_zero
finish
no_exec_stack
