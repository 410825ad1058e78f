# As in valgrind and qemu-user: an address is compared with the page's.
#@ expect: reg entry=gettimeofday form=compare verdict=harmless function=is_page
#@ expect: mem entry=time form=compare verdict=harmless function=is_time
#@ expect: sub entry=getcpu form=compare verdict=harmless|unproven function=is_getcpu
.include "common.inc"
.text
func is_page
    xor %eax, %eax
site reg
    cmp $0xffffffffff600000, %rdi
    sete %al
    ret
endfunc is_page
func is_time
    xor %eax, %eax
site mem
    cmpq $0xffffffffff600400, (%rdi)
    sete %al
    ret
endfunc is_time
func is_getcpu
site sub
    mov $0xffffffffff600800, %rdx
    xor %eax, %eax
    cmp %rdx, %rdi
    sete %al
    ret
endfunc is_getcpu
begin
finish
no_exec_stack
