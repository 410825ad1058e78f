# The bytes of an entry's address, or of a whole constant-and-call, as part of other instructions.
#@ may: tail entry=gettimeofday form=other-instruction verdict=harmless|unproven
#@ may: displacement entry=time form=other-instruction verdict=harmless|unproven
#@ may: mask entry=gettimeofday form=other-instruction verdict=harmless|unproven
#@ may: movabs entry=gettimeofday form=other-instruction verdict=harmless|unproven
#@ may: whole entry=time form=other-instruction verdict=harmless|unproven
#@ may: whole2 entry=time form=other-instruction verdict=harmless|unproven
#@ may: zero entry=gettimeofday form=other-instruction|argument|data|compare verdict=harmless|unproven
.include "common.inc"
.text
# 66 0f 1f 44 00 | 00: a six-byte nop whose last byte meets the next instruction's `00 60 ff`.
func tail_bytes
site tail
    .byte 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00    # nopw 0(%rax,%rax)
    .byte 0x00, 0x60, 0xff                      # add %ah,-1(%rax)
    ret
endfunc tail_bytes
func displacements
site displacement
    mov -0x9ffc00(%rbx), %rax                   # 48 8b 83 00 04 60 ff
    ret
endfunc displacements
# vim's and gtk's `flags &= ...`: 81 a7 b4 00 00 00 60 ff ff ff
func masks
site mask
    andl $0xffffff60, 0xb4(%rdi)
    ret
endfunc masks
# OpenSSL's bit set: the upper half of a movabs
func bit_set
site movabs
    movabs $0x23ff600000000000, %rax
    bt %rdx, %rax
    setc %al
    ret
endfunc bit_set
# mov $0xffffffffff600400,%rax; call *%rax inside an immediate and the next instruction's start
func whole_form
site whole
    movabs $0xd0ffff600400c0c7, %r8             # 49 b8 | c7 c0 00 04 60 ff ff d0
site whole2
    movabs $0xff600400c0c74890, %r9             # 49 b9 90 | 48 c7 c0 00 04 60 ff
    call 1f
1:  add $8, %rsp
    ret
endfunc whole_form
# The same 32 bits, but zero-extended: another address.
func zero_extended
site zero
    mov $0xff600000, %edi
    mov %rdi, %rax
    ret
endfunc zero_extended
begin
finish
no_exec_stack
