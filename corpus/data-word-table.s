# Tables of pointers that are read by an index, in a file that is loaded anywhere: the calls look at what they call.
# Code that is not seen may read a table whose address goes elsewhere.
#@ link: pie static-pie dso
#@ expect: word entry=time form=data-word verdict=patch strategy=stub
#@ expect: near entry=gettimeofday form=data-word verdict=patch strategy=stub
#@ expect: escaped entry=time form=data-word verdict=refused
#@ run: 0
.include "common.inc"
.text
# Away from where small numbers would lead.
    .skip 0x2000, 0xcc
func by_index
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov number(%rip), %rcx
    lea table(%rip), %rdx
    mov (%rdx,%rcx,8), %rax
    xor %edi, %edi
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_index
func jump_by_index
    xor %edi, %edi
    mov number(%rip), %rcx
    lea table(%rip), %rdx
    jmp *(%rdx,%rcx,8)
endfunc jump_by_index
func by_element
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov number(%rip), %rcx
    lea table(%rip), %rdx
    lea (%rdx,%rcx,8), %rax
    mov (%rax), %rax
    xor %edi, %edi
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_element
# Behind a function, for the code that looks and for stubs.
room spare
    .skip 240, 0xcc
func by_escaped
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    mov number(%rip), %rcx
    lea apart(%rip), %rdx
    mov %rdx, kept(%rip)
    xor %edi, %edi
    call *-8(%rdx,%rcx,8)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_escaped
begin
check_time_null by_index
check_time_null jump_by_index
check_time_null by_element
finish
.data
.balign 8
number: .quad 2
kept: .quad 1
    .quad 1
table:
site near
    .quad 0xffffffffff600000
    .quad 0
site word
    .quad 0xffffffffff600400
    .fill 70, 8, 1
apart:
site escaped
    .quad 0xffffffffff600400
no_exec_stack
