# A word with the address inside the table that Go's run-time finds its functions by: nobody calls through that. Where no
# section tells how far the table goes, it is data like any other.
# Elsewhere it shares a segment with code.
#@ linker: bfd lld
#@ expect(headerless): inside entry=time form=data-word|data verdict=unproven
.include "common.inc"
.text
begin
finish
.section .gopclntab, "a"
.balign 8
    .byte 0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8
    .quad 0, 0
site inside
    .quad 0xffffffffff600400
    .quad 0
no_exec_stack
