# One of most things in one file: the prebuilt files of the snapshots are made from it (see README.md).
#@ expect: direct entry=time form=direct-call verdict=patch strategy=in-place reach=always function=old_time
#@ expect: jump entry=gettimeofday form=tail-jump verdict=patch reach=always function=old_gettimeofday
#@ expect: loop entry=time form=direct-call verdict=patch strategy=stub reach=always function=time_in_loop
#@ expect: stored entry=getcpu form=stored-fallback verdict=patch strategy=stub reach=fallback function=init
# Nothing but the symbol table of a static program says that this is a resolver: stripped, it is unproven.
#@ expect(dso): resolver entry=time form=ifunc-fallback verdict=patch strategy=stub reach=fallback function=ifunc_time
#@ expect(exec,pie,static-pie): resolver entry=time form=ifunc-fallback|stored-constant verdict=patch|unproven
#@ expect(exec): word entry=gettimeofday form=data-word verdict=patch strategy=stub
#@ expect(pie,static-pie,dso): word entry=gettimeofday form=data-word verdict=patch|refused
#@ expect: compared entry=gettimeofday form=compare verdict=harmless function=is_page
#@ expect: given entry=time form=argument verdict=unproven|harmless function=gives_page
#@ may: inside entry=gettimeofday form=other-instruction verdict=harmless|unproven
#@ run(exec): 0
.include "common.inc"
.text
func old_time
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site direct
    mov $0xffffffffff600400, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc old_time
func old_gettimeofday
site jump
    mov $0xffffffffff600000, %rax
    jmp *%rax
endfunc old_gettimeofday
func time_in_loop
    push %r13
    .cfi_def_cfa_offset 16
    push %rbx
    .cfi_def_cfa_offset 24
    push %rbp
    .cfi_def_cfa_offset 32
    mov %rdi, %rbp
    mov $5, %ebx
site loop
    mov $0xffffffffff600400, %r13
1:  mov %rbp, %rdi
    call *%r13
    sub $1, %ebx
    jne 1b
    pop %rbp
    .cfi_def_cfa_offset 24
    pop %rbx
    .cfi_def_cfa_offset 16
    pop %r13
    .cfi_def_cfa_offset 8
    ret
endfunc time_in_loop
func vdso_lookup
    mov vdso_function(%rip), %rax
    ret
endfunc vdso_lookup
func init
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call vdso_lookup
site stored
    mov $0xffffffffff600800, %rdx
    test %rax, %rax
    cmove %rdx, %rax
    xor %fs:0x30, %rax
    rol $0x11, %rax
    mov %rax, vdso_getcpu(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc init
func kept_getcpu
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov vdso_getcpu(%rip), %rax
    ror $0x11, %rax
    xor %fs:0x30, %rax
    xor %edx, %edx
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc kept_getcpu
    .p2align 4
    .globl ifunc_time
    .type ifunc_time, @gnu_indirect_function
ifunc_time:
    .cfi_startproc
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call vdso_lookup
site resolver
    mov $0xffffffffff600400, %rdx
    test %rax, %rax
    cmove %rdx, %rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size ifunc_time, . - ifunc_time
calls_word by_word, page_word
func is_page
    xor %eax, %eax
site compared
    cmp $0xffffffffff600000, %rdi
    sete %al
    ret
endfunc is_page
func gives_page
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site given
    mov $0xffffffffff600400, %rdi
    call *vdso_function(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc gives_page
func masks
site inside
    andl $0xffffff60, 0xb4(%rdi)
    ret
endfunc masks
begin
    mov $158, %eax
    mov $0x1002, %edi
    lea thread(%rip), %rsi
    syscall
    call init
check_time old_time
check_gettimeofday old_gettimeofday
check_time time_in_loop
check_getcpu kept_getcpu
check_gettimeofday by_word
finish
.data
.balign 8
vdso_function: .quad 0
site word
page_word: .quad 0xffffffffff600000
thread: .quad 0, 0, 0, 0, 0, 0
    .quad 0x123456789abcdef0
.bss
.balign 8
vdso_getcpu: .quad 0
no_exec_stack
