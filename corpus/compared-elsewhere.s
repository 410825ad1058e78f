# A pointer that another function, which gets it by an address, compares with the entry's: as a stub's address it would
# be another one.
#@ expect: stored entry=time form=stored-fallback verdict=refused function=choose
#@ expect: compared entry=time form=compare verdict=harmless function=is_entry
#@ run: 0
.include "common.inc"
.text
func choose
    mov vdso_time(%rip), %rax
    test %rax, %rax
    jne 1f
site stored
    mov $0xffffffffff600400, %rax
1:  mov %rax, pointer(%rip)
    ret
endfunc choose
calls_word by_pointer, pointer
func is_entry
    xor %eax, %eax
site compared
    cmpq $0xffffffffff600400, (%rdi)
    sete %al
    ret
endfunc is_entry
begin
call choose
check_time by_pointer
lea pointer(%rip), %rdi
call is_entry
test %eax, %eax
je .Lbad
finish
.bss
.balign 8
vdso_time: .quad 0
pointer: .quad 0
no_exec_stack
