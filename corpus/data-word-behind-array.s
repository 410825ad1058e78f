# The page's address as a number, right behind the functions that are to run at the end, which are called by an index: the
# section tells where these end. Without section headers the number might be one of them, but for what else is done with it.
#@ link: exec
#@ expect: lowest entry=gettimeofday form=data-word verdict=unproven|refused
#@ expect: call entry=time form=direct-call verdict=patch strategy=in-place function=now
#@ run: 0
.include "common.inc"
.text
func run_all
    push %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset rbx, -16
    mov count(%rip), %rbx
1:  sub $1, %rbx
    js 2f
    call *at_end(,%rbx,8)
    jmp 1b
2:  pop %rbx
    .cfi_def_cfa_offset 8
    ret
endfunc run_all
func nothing
    ret
endfunc nothing
func sum
    xor %eax, %eax
    xor %ecx, %ecx
1:  mov numbers(,%rcx,8), %rdx
    lea (%rax,%rdx), %rax
    add $1, %rcx
    cmp $2, %rcx
    jne 1b
    ret
endfunc sum
func now
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site call
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc now
begin
check_time now
call run_all
call sum
neg %rax
cmp $0x9fffff, %rax
jne .Lbad
finish
.section .fini_array, "aw", @fini_array
at_end: .quad nothing
.section .data.rel.ro, "aw", @progbits
.balign 8
numbers:
site lowest
    .quad 0xffffffffff600000
    .quad 1
.data
count: .quad 1
no_exec_stack
