# The page's address plus an index that is not known, kept in a word of memory that is called through: what is kept is
# one of several entries.
#@ expect: sum entry=gettimeofday form=computed verdict=patch|refused
#@ expect: difference entry=gettimeofday form=computed verdict=patch|refused
#@ run: 0
.include "common.inc"
.text
# keep_sum(distance in edi), as clang writes it
func keep_sum
    mov %edi, %eax
site sum
    add $0xffffffffff600000, %rax
    mov %rax, kept(%rip)
    xor %eax, %eax
    ret
endfunc keep_sum
# keep_difference(distance in edi), as gcc does
func keep_difference
    mov %edi, %eax
site difference
    sub $0xa00000, %rax
    mov %rax, kept(%rip)
    xor %eax, %eax
    ret
endfunc keep_difference
func by_kept
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call *kept(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_kept
room spare
    .skip 240, 0xcc
begin
mov time_distance(%rip), %edi
call keep_sum
check_time by_kept
mov gettimeofday_distance(%rip), %edi
call keep_difference
check_gettimeofday by_kept
mov time_distance(%rip), %edi
call keep_difference
check_time by_kept
finish
.data
gettimeofday_distance: .long 0
time_distance: .long 0x400
.bss
.balign 8
kept: .quad 0
no_exec_stack
