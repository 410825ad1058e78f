# A jump table's target lies between the constant and the call, so the call is also reached without it.
#@ expect: table entry=time form=direct-call verdict=patch|refused|unproven function=dispatch
#@ run: 0
.include "common.inc"
.text
# dispatch(buffer, case): case 0 is the page, 1 another function, 2 a constant result
func dispatch
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    cmp $2, %esi
    ja .Lother
    lea table(%rip), %rdx
    mov %esi, %esi
    movslq (%rdx,%rsi,4), %rcx
    lea own_time(%rip), %rax
    add %rdx, %rcx
    jmp *%rcx
.Lpage:
site table
    mov $0xffffffffff600400, %rax
.Lcall:
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
.Lother:
    .cfi_def_cfa_offset 16
    xor %eax, %eax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc dispatch
func own_time
    push %rdi
    .cfi_def_cfa_offset 16
    sub $16, %rsp
    .cfi_def_cfa_offset 32
    mov $96, %eax
    mov %rsp, %rdi
    xor %esi, %esi
    syscall
    mov (%rsp), %rax
    add $16, %rsp
    .cfi_def_cfa_offset 16
    pop %rdi
    .cfi_def_cfa_offset 8
    test %rdi, %rdi
    je 1f
    mov %rax, (%rdi)
1:  ret
endfunc own_time
func by_page
    xor %esi, %esi
    jmp dispatch
endfunc by_page
func by_own
    mov $1, %esi
    jmp dispatch
endfunc by_own
begin
check_time by_own
check_time by_page
finish
.section .rodata
.balign 4
table:
    .long .Lpage - table
    .long .Lcall - table
    .long .Lother - table
no_exec_stack
