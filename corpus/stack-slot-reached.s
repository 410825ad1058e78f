# Slots of the frame that are read and written in other ways than by their own names: by their address, by an index, by
# an address that another slot holds, by a string instruction, as an argument on the stack. What is called is then not the entry alone, and the
# entry is not only called.
#@ expect: passed entry=time form=stack-slot verdict=patch strategy=stub reach=always function=by_address
#@ expect: indexed entry=time form=stack-slot verdict=patch strategy=stub reach=fallback function=by_index
#@ expect: kept entry=time form=stack-slot verdict=patch strategy=stub reach=fallback function=by_kept_address
#@ expect: copied entry=time form=stack-slot verdict=patch strategy=stub reach=fallback function=by_string
#@ expect: eighth entry=time form=stack-slot verdict=patch strategy=stub reach=always function=by_value
#@ expect: summed entry=time form=direct-call verdict=refused function=as_number
#@ run: 0
.include "common.inc"
.macro frame
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    sub $48, %rsp
    mov %rdi, -40(%rbp)
.endm
.macro unframe
    leave
    .cfi_def_cfa rsp, 8
    ret
.endm
.text
# The program's own, which the slots get instead.
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
func by_address
    frame
site passed
    movq $0xffffffffff600400, -8(%rbp)
    mov -8(%rbp), %rax
    call *%rax
    test $2, %r10b
    je 1f
    lea -8(%rbp), %rdi
    mov -40(%rbp), %rsi
    call by_reference
1:  unframe
endfunc by_address
func by_reference
    mov (%rdi), %rax
    mov %rsi, %rdi
    jmp *%rax
endfunc by_reference
func by_index
    frame
site indexed
    movq $0xffffffffff600400, -8(%rbp)
    lea own_time(%rip), %rdx
    mov %r10d, %eax
    and $1, %eax
    mov %rdx, -16(%rbp,%rax,8)
    mov -8(%rbp), %rax
    call *%rax
    unframe
endfunc by_index
func by_kept_address
    frame
site kept
    movq $0xffffffffff600400, -8(%rbp)
    lea -8(%rbp), %rax
    mov %rax, -16(%rbp)
    lea -16(%rbp), %rdi
    call replace
    mov -40(%rbp), %rdi
    mov -8(%rbp), %rax
    call *%rax
    unframe
endfunc by_kept_address
func replace
    mov (%rdi), %rax
    lea own_time(%rip), %rdx
    mov %rdx, (%rax)
    ret
endfunc replace
func by_string
    frame
site copied
    movq $0xffffffffff600400, -8(%rbp)
    lea own_time(%rip), %rax
    mov %rax, words(%rip)
    mov %rax, 8+words(%rip)
    lea words(%rip), %rsi
    lea -16(%rbp), %rdi
    mov %r10d, %ecx
    and $2, %ecx
    rep movsq
    mov -40(%rbp), %rdi
    mov -8(%rbp), %rax
    call *%rax
    unframe
endfunc by_string
func by_value
    frame
site eighth
    movq $0xffffffffff600400, -8(%rbp)
    mov -8(%rbp), %rax
    call *%rax
    push -8(%rbp)
    push $0
    mov -40(%rbp), %rdi
    call eighth_argument
    add $16, %rsp
    unframe
endfunc by_value
# The constant is called, and an element of an array of numbers that is read by an index.
func as_number
    frame
site summed
    mov $0xffffffffff600400, %rdx
    mov %rdx, -8(%rbp)
    movq $0, -16(%rbp)
    call *%rdx
    mov %r10d, %ecx
    and $1, %ecx
    mov -16(%rbp,%rcx,8), %rdx
    neg %rdx
    unframe
endfunc as_number
func eighth_argument
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov 24(%rsp), %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc eighth_argument
room room_1
room room_2
begin
check_time by_address
check_time by_index
check_time by_kept_address
check_time by_string
check_time by_value
check_time as_number
finish
.bss
.balign 8
words: .quad 0, 0
no_exec_stack
