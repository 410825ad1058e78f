# A computed entry whose constant is not the page itself but time's entry, or getcpu's: the index counts from there.
#@ expect: add entry=time form=computed verdict=patch|refused
#@ expect: or entry=time form=computed verdict=patch|refused
#@ expect: difference entry=time form=computed verdict=patch|refused
#@ expect: last entry=getcpu form=computed verdict=patch|refused
#@ run: 0
.include "common.inc"
.text
# by_sum(buffer, 0, distance from time's entry)
func by_sum
    movslq %edx, %rdx
site add
    lea -0x9ffc00(%rdx), %rax
    jmp *%rax
endfunc by_sum
# by_bits(buffer, 0, bits beside those of time's entry)
func by_bits
    mov %edx, %eax
site or
    or $0xffffffffff600400, %rax
    jmp *%rax
endfunc by_bits
# by_difference(buffer, 0, distance from time's entry), as gcc writes it
func by_difference
    movslq %edx, %rax
site difference
    sub $0x9ffc00, %rax
    jmp *%rax
endfunc by_difference
# by_last(buffer, 0, distance from getcpu's entry)
func by_last
    movslq %edx, %r8
site last
    sub $0x9ff800, %r8
    jmp *%r8
endfunc by_last
func as_gettimeofday
    mov before(%rip), %edx
    jmp by_sum
endfunc as_gettimeofday
func as_time
    mov none(%rip), %edx
    jmp by_sum
endfunc as_time
func as_getcpu
    mov behind(%rip), %edx
    jmp by_sum
endfunc as_getcpu
func as_time_by_bits
    mov same(%rip), %edx
    jmp by_bits
endfunc as_time_by_bits
func as_time_by_difference
    mov none(%rip), %edx
    jmp by_difference
endfunc as_time_by_difference
func as_time_by_last
    mov before(%rip), %edx
    jmp by_last
endfunc as_time_by_last
begin
check_time as_time_by_difference
check_time as_time_by_last
check_gettimeofday as_gettimeofday
check_time as_time
check_getcpu as_getcpu
check_time as_time_by_bits
finish
.data
before: .long -0x400
none: .long 0
behind: .long 0x400
same: .long 0x400
no_exec_stack
