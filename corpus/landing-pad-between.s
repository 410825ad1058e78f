# An exception of the call before continues right at the call through the register, by the function's table of
# landing pads: what the register holds there is not known.
#@ expect: entered entry=time form=direct-call verdict=patch strategy=stub
#@ run: 0
.include "common.inc"
.text
room room_1
func personality
    ret
endfunc personality
func may_throw
    ret
endfunc may_throw
func by_pad
    .cfi_personality 0x1b, personality
    .cfi_lsda 0x1b, lsda
    sub $8, %rsp
    .cfi_def_cfa_offset 16
.Lbegin:
    call may_throw
.Lend:
site entered
    mov $0xffffffffff600400, %rax
.Lpad:
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_pad
begin
check_time by_pad
finish
.section .gcc_except_table, "a", @progbits
.balign 4
lsda:
    .byte 0xff              # landing pads count from the function's begin
    .byte 0xff              # no types
    .byte 0x01              # ULEB128
    .uleb128 .Lsites_end - .Lsites_begin
.Lsites_begin:
    .uleb128 .Lbegin - by_pad
    .uleb128 .Lend - .Lbegin
    .uleb128 .Lpad - by_pad
    .uleb128 0
.Lsites_end:
no_exec_stack
