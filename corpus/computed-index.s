# clang -O2's code for a table of entries: the index is known only at run time.
#@ expect(exec): index entry=gettimeofday form=computed verdict=patch|refused
#@ expect(pie,static-pie,dso): index entry=gettimeofday form=computed verdict=patch|refused
#@ run: 0
.include "common.inc"
.text
# by_index(buffer, 0, nr)
func by_index
    mov %edx, %eax
    shl $10, %eax
site index
    or $0xffffffffff600000, %rax
    jmp *%rax
endfunc by_index
func as_gettimeofday
    mov gettimeofday_nr(%rip), %edx
    jmp by_index
endfunc as_gettimeofday
func as_time
    mov time_nr(%rip), %edx
    jmp by_index
endfunc as_time
begin
check_gettimeofday as_gettimeofday
check_time as_time
finish
.data
gettimeofday_nr: .long 0
time_nr: .long 1
no_exec_stack
