# The call is also entered by a branch with another function in rax: the call instruction must stay a call.
#@ expect: shared entry=time form=direct-call verdict=patch strategy=stub reach=always|fallback function=page_or_own
#@ run: 0
.include "common.inc"
.text
# page_or_own(buffer, own)
func page_or_own
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    test %esi, %esi
    jne 2f
site shared
    mov $0xffffffffff600400, %rax
1:  call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
2:  .cfi_def_cfa_offset 16
    lea own_time(%rip), %rax
    jmp 1b
endfunc page_or_own
func own_time
    sub $24, %rsp
    .cfi_def_cfa_offset 32
    push %rdi
    .cfi_def_cfa_offset 40
    mov $96, %eax
    lea 8(%rsp), %rdi
    xor %esi, %esi
    syscall
    pop %rdi
    .cfi_def_cfa_offset 32
    mov (%rsp), %rax
    test %rdi, %rdi
    je 1f
    mov %rax, (%rdi)
1:  add $24, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc own_time
func by_page
    xor %esi, %esi
    jmp page_or_own
endfunc by_page
func by_own
    mov $1, %esi
    jmp page_or_own
endfunc by_own
begin
check_time by_own
check_time by_page
finish
no_exec_stack
