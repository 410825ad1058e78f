# Addresses of the page in tables of structures that are searched and printed, not called: read by an index and by a
# pointer that goes over the table, alone and right behind a table of functions.
#@ link: exec
#@ expect: compared entry=gettimeofday form=data-word verdict=harmless|unproven
#@ expect: in_slot entry=gettimeofday form=data-word verdict=harmless|unproven
#@ expect: printed entry=time form=data-word verdict=harmless|unproven
#@ expect: behind entry=getcpu form=data-word verdict=unproven|refused
#@ expect: of_kind entry=gettimeofday form=data-word verdict=unproven
#@ expect: call entry=time form=data-word verdict=patch strategy=stub
.include "common.inc"
.text
func find
    mov $compared_table, %edx
1:  cmp %rdi, 8(%rdx)
    je 2f
    add $16, %rdx
    cmp $compared_table+32, %rdx
    jne 1b
2:  mov (%rdx), %rax
    ret
endfunc find
func find_by_slot
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    mov %rdi, -8(%rbp)
    movq $in_slot_table, -16(%rbp)
    jmp 2f
1:  mov -16(%rbp), %rax
    mov 8(%rax), %rdx
    cmp -8(%rbp), %rdx
    je 3f
    addq $16, -16(%rbp)
2:  mov -16(%rbp), %rdx
    cmpq $0, (%rdx)
    jne 1b
3:  mov -16(%rbp), %rdx
    mov (%rdx), %rax
    pop %rbp
    .cfi_def_cfa rsp, 8
    ret
endfunc find_by_slot
func print_all
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    mov $-32, %rbx
1:  mov printed_end(%rbx), %rdi
    mov printed_end+8(%rbx), %rsi
    call print
    add $16, %rbx
    jne 1b
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc print_all
func print
    mov %rsi, printed(%rip)
    lea (%rdi,%rsi), %rax
    ret
endfunc print
func call_by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movslq %edi, %rax
    shl $4, %rax
    xor %edi, %edi
    call *called_table+8(%rax)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc call_by_index
func find_behind
    xor %eax, %eax
1:  cmp behind_table+8(%rax), %rdi
    je 2f
    add $16, %rax
    cmp $32, %rax
    jne 1b
2:  ret
endfunc find_behind
# The number tells whether there is a function.
func call_or_print
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    mov $kinds_table, %ebx
1:  mov 8(%rbx), %rax
    cmpq $0, (%rbx)
    je 2f
    mov %rax, %rdi
    call print
    jmp 3f
2:  call *%rax
3:  add $16, %rbx
    cmp $kinds_table+48, %rbx
    jne 1b
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc call_or_print
func own_time
    mov $201, %eax
    syscall
    ret
endfunc own_time
room spare
    .skip 64, 0xcc
begin
finish
.data
.balign 8
name: .quad 1
printed: .quad 5
compared_table:
    .quad name
site compared
    .quad 0xffffffffff600000
    .quad name, own_time
    .quad 5
in_slot_table:
    .quad name
site in_slot
    .quad 0xffffffffff600000
    .quad name, own_time, 0, 0
    .quad 5
printed_table:
    .quad name, own_time, name
site printed
    .quad 0xffffffffff600400
printed_end:
    .quad 5
called_table:
    .quad name, own_time, name
site call
    .quad 0xffffffffff600400
behind_table:
    .quad name
site behind
    .quad 0xffffffffff600800
    .quad name, own_time
    .quad 5
kinds_table:
    .quad 0, own_time, 1
site of_kind
    .quad 0xffffffffff600000
    .quad 0, own_time
no_exec_stack
