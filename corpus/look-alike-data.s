# The bytes in data: unaligned, in strings, in a jump table and in a literal pool inside .text.
#@ may: unaligned entry=time form=data verdict=harmless|unproven
#@ may: string entry=gettimeofday form=data verdict=harmless|unproven
#@ may: table entry=gettimeofday form=data|data-word|other-instruction|direct-call verdict=harmless|unproven
#@ may: pool entry=time form=data|data-word|other-instruction|direct-call verdict=harmless|unproven
#@ may: text entry=time form=data|data-word|other-instruction|direct-call verdict=harmless|unproven
.include "common.inc"
.text
func dispatch
    cmp $2, %edi
    ja 1f
    lea .Ltable(%rip), %rdx
    mov %edi, %edi
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    jmp *%rax
1:  xor %eax, %eax
    ret
    .p2align 2
.Ltable:
    .long 1b - .Ltable, 1b - .Ltable, 1b - .Ltable
site table
    .byte 0x00, 0x00, 0x60, 0xff
    .p2align 3
site pool
    .quad 0xffffffffff600400
site text
    .ascii "H\xc7\xc0\x00\x04\x60\xff\xff\xd0 is what the tool looks for"
endfunc dispatch
begin
finish
.data
.balign 8
.byte 1, 2, 3
site unaligned
.quad 0xffffffffff600400
site string
.ascii "page at \x00\x00\x60\xff\xff\xff\xff\xff!"
no_exec_stack
