# The address is handed to other code: a hint for mmap, a key, a value to print. Nothing here calls it.
#@ expect: rdi entry=gettimeofday form=argument verdict=unproven|harmless function=gives_first
#@ expect: rcx entry=time form=argument verdict=unproven|harmless function=gives_fourth
#@ expect: tail entry=time form=argument verdict=unproven|harmless function=gives_by_jump
#@ expect: hint entry=gettimeofday form=argument verdict=unproven|harmless function=map_hint
.include "common.inc"
.text
func gives_first
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site rdi
    mov $0xffffffffff600000, %rdi
    call *other(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc gives_first
func gives_fourth
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site rcx
    mov $0xffffffffff600400, %rcx
    xor %edi, %edi
    call *other(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc gives_fourth
func gives_by_jump
site tail
    mov $0xffffffffff600400, %rsi
    jmp *other(%rip)
endfunc gives_by_jump
func map_hint
    mov $9, %eax
site hint
    mov $0xffffffffff600000, %rdi
    mov $4096, %esi
    xor %edx, %edx
    mov $0x22, %r10d
    mov $-1, %r8
    xor %r9d, %r9d
    syscall
    ret
endfunc map_hint
begin
finish
.bss
.balign 8
other: .quad 0
no_exec_stack
