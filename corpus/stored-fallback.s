# glibc 2.7 to 2.21: an init function keeps the vDSO's function, else the page's, mangled; and the plain store.
#@ expect: mangled entry=gettimeofday form=stored-fallback verdict=patch strategy=stub reach=fallback function=init
#@ expect: plain entry=time form=stored-fallback verdict=patch strategy=stub reach=fallback|always function=init
#@ run: 0
.include "common.inc"
.text
func vdso_lookup
    mov vdso_function(%rip), %rax
    ret
endfunc vdso_lookup
func init
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call vdso_lookup
site mangled
    mov $0xffffffffff600000, %rdx
    test %rax, %rax
    cmove %rdx, %rax
    xor %fs:0x30, %rax
    rol $0x11, %rax
    mov %rax, vdso_gettimeofday(%rip)
    call vdso_lookup
    test %rax, %rax
    jne 1f
site plain
    mov $0xffffffffff600400, %rax
1:  mov %rax, vdso_time(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc init
func kept_gettimeofday
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov vdso_gettimeofday(%rip), %rax
    ror $0x11, %rax
    xor %fs:0x30, %rax
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc kept_gettimeofday
calls_word kept_time, vdso_time
begin
    # arch_prctl(ARCH_SET_FS): the pointer guard is at %fs:0x30
    mov $158, %eax
    mov $0x1002, %edi
    lea thread(%rip), %rsi
    syscall
    call init
check_gettimeofday kept_gettimeofday
check_time kept_time
finish
.data
.balign 8
vdso_function: .quad 0
thread: .quad 0, 0, 0, 0, 0, 0
    .quad 0x123456789abcdef0
.bss
.balign 8
vdso_gettimeofday: .quad 0
vdso_time: .quad 0
no_exec_stack
