# Ten megabytes less, and an entry's distance from there: numbers. Only the distance is uncommon enough to be told of.
#@ expect: less entry=gettimeofday form=other-instruction verdict=harmless function=left_over
#@ expect: distance entry=time form=computed verdict=unproven|harmless function=distant
.include "common.inc"
.text
# What is left over in a register that carries arguments, and that the callee overwrites.
func left_over
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site less
    lea -0xa00000(%rdi), %rcx
    cmp $0x1000, %rcx
    ja 1f
    xor %eax, %eax
    jmp 2f
1:  call overwrites
2:  add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc left_over
func overwrites
    mov $3, %ecx
    mov %rcx, %rax
    ret
endfunc overwrites
func less_only
    mov %rdi, %rax
    sub $0xa00000, %rax
    ret
endfunc less_only
func distant
    mov %rdi, %rax
site distance
    sub $0x9ffc00, %rax
    ret
endfunc distant
begin
mov $0xa00000, %edi
call left_over
test %rax, %rax
jne .Lbad
mov $1, %edi
call left_over
cmp $3, %rax
jne .Lbad
mov $0xa00000, %edi
call less_only
test %rax, %rax
jne .Lbad
mov $0x9ffc00, %edi
call distant
test %rax, %rax
jne .Lbad
finish
no_exec_stack
