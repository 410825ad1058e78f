# The emulated call kept rcx and r11; the system call does not. Code that reads them behind the call must
# still work if it is patched.
#@ expect: rcx entry=time form=direct-call verdict=patch|refused function=reads_rcx
#@ expect: r11 entry=time form=direct-call verdict=patch|refused function=reads_r11
#@ expect: loop entry=time form=direct-call verdict=patch|refused function=reads_rcx_next_round
#@ expect: first entry=time form=direct-call verdict=patch function=keeps_over_two_calls
#@ expect: second entry=time form=direct-call verdict=patch function=keeps_over_two_calls
#@ run: 0
.include "common.inc"
.text
func reads_rcx
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $0x51, %ecx
site rcx
    mov $0xffffffffff600400, %rax
    call *%rax
    cmp $0x51, %rcx
    je 1f
    xor %eax, %eax
1:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc reads_rcx
func reads_r11
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    movabs $0x5152535455565758, %r11
site r11
    mov $0xffffffffff600400, %rax
    call *%rax
    movabs $0x5152535455565758, %rdx
    cmp %rdx, %r11
    je 1f
    xor %eax, %eax
1:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc reads_r11
func reads_rcx_next_round
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $3, %ecx
    xor %r9d, %r9d
1:  inc %r9d
site loop
    mov $0xffffffffff600400, %rax
    call *%rax
    loop 1b
    cmp $3, %r9d
    je 2f
    xor %eax, %eax
2:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc reads_rcx_next_round
func keeps_over_two_calls
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov $0x53, %r8d
site first
    mov $0xffffffffff600400, %rax
    call *%rax
    test %rax, %rax
    js 1f
site second
    mov $0xffffffffff600400, %rax
    call *%rax
    cmp $0x53, %r8
    je 1f
    xor %eax, %eax
1:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc keeps_over_two_calls
begin
check_time keeps_over_two_calls
check_time reads_rcx
check_time reads_r11
check_time reads_rcx_next_round
finish
no_exec_stack
