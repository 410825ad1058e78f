# No site at all: a file that is clean stays as it is.
#@ expect-none
.include "common.inc"
.text
func adds
    lea (%rdi,%rsi), %rax
    ret
endfunc adds
begin
finish
.data
.balign 8
.quad 0xffffffffff600c00, 0xffffffffff601000
no_exec_stack
