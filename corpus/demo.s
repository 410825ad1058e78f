# The sample of `vsyspatch demo`: a static program whose time() is written in the way of glibc 2.13's,
# a direct call of the vsyscall page. It prints one line, `time() works: SECONDS`, and exits with 0.
#
# Build: see corpus/README.md.

        .set    VSYSCALL_TIME, 0xffffffffff600400
        .set    SYS_WRITE, 1
        .set    SYS_EXIT, 60
        .set    STDOUT, 1

        .text

# time_t time(time_t *t)
        .globl  time
        .type   time, @function
        .p2align 4
time:
        .cfi_startproc
        sub     $8, %rsp
        .cfi_adjust_cfa_offset 8
        mov     $VSYSCALL_TIME, %rax
        call    *%rax
        add     $8, %rsp
        .cfi_adjust_cfa_offset -8
        ret
        .cfi_endproc
        .size   time, .-time

# char *decimal(unsigned long value, char *end): writes the digits in front of `end`, returns the first.
        .type   decimal, @function
        .p2align 4
decimal:
        .cfi_startproc
        mov     %rdi, %rax
        mov     %rsi, %rdi
        mov     $10, %ecx
1:      xor     %edx, %edx
        div     %rcx
        add     $'0', %dl
        dec     %rdi
        mov     %dl, (%rdi)
        test    %rax, %rax
        jnz     1b
        mov     %rdi, %rax
        ret
        .cfi_endproc
        .size   decimal, .-decimal

# write(STDOUT, data, size)
        .type   print, @function
        .p2align 4
print:
        .cfi_startproc
        mov     %rsi, %rdx
        mov     %rdi, %rsi
        mov     $STDOUT, %edi
        mov     $SYS_WRITE, %eax
        syscall
        ret
        .cfi_endproc
        .size   print, .-print

        .globl  _start
        .type   _start, @function
        .p2align 4
_start:
        .cfi_startproc
        .cfi_undefined %rip
        xor     %edi, %edi
        call    time
        mov     %rax, %rbx
        lea     message(%rip), %rdi
        mov     $message_size, %esi
        call    print
        mov     %rbx, %rdi
        lea     number_end(%rip), %rsi
        call    decimal
        mov     %rax, %rdi
        lea     line_end(%rip), %rsi
        sub     %rdi, %rsi
        call    print
        xor     %edi, %edi
        mov     $SYS_EXIT, %eax
        syscall
        hlt
        .cfi_endproc
        .size   _start, .-_start

        .section .rodata
message:
        .ascii  "time() works: "
        .set    message_size, .-message

        .data
number:
        .skip   20, '0'         # the digits of 2^64 - 1
number_end:
        .ascii  "\n"
line_end:

        .section .note.GNU-stack, "", @progbits
