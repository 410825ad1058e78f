# Words that are read by their distance from the global offset table, as code of the large model does.
#@ link: exec pie static-pie dso
#@ expect(symbols,stripped): word entry=time form=data-word verdict=patch strategy=stub
#@ expect(symbols,stripped): member entry=time form=data-word verdict=patch|unproven
#@ expect(symbols,stripped): indexed entry=time form=data-word verdict=patch strategy=stub
#@ expect(headerless): word entry=time form=data-word verdict=patch|unproven
#@ expect(headerless): member entry=time form=data-word verdict=patch|unproven
#@ expect(headerless): indexed entry=time form=data-word verdict=patch|unproven
#@ run(symbols): 0
.include "common.inc"
.text
# Away from where small numbers would lead.
    .skip 0x2000, 0xcc
# Leaves the table's address in rbx.
.macro table
    push %rbx
    .cfi_def_cfa_offset 16
.Lat\@: lea .Lat\@(%rip), %rbx
    movabs $_GLOBAL_OFFSET_TABLE_-.Lat\@, %r11
    add %r11, %rbx
.endm
.macro leave_table
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
.endm
func by_word
    table
    movabs $word@GOTOFF, %rax
    mov (%rax,%rbx), %rax
    call *%rax
    leave_table
endfunc by_word
func by_member
    table
    movabs $structure@GOTOFF, %rax
    mov 8(%rbx,%rax), %rax
    call *%rax
    leave_table
endfunc by_member
func by_index
    table
    movabs $number@GOTOFF, %rcx
    mov (%rcx,%rbx), %rcx
    movabs $indexed@GOTOFF, %rax
    add %rbx, %rax
    lea (%rax,%rcx,8), %rax
    mov (%rax), %rax
    xor %edi, %edi
    call *%rax
    leave_table
endfunc by_index
func replace
    table
    movabs $word@GOTOFF, %rax
    mov %rdi, (%rax,%rbx)
    leave_table
endfunc replace
room spare
    .skip 240, 0xcc
begin
check_time by_word
check_time by_member
check_time_null by_index
finish
.data
.balign 16
number: .quad 2
    .type structure, @object
structure: .quad 7
site member
    .quad 0xffffffffff600400
    .size structure, . - structure
    .quad 7
site word
word: .quad 0xffffffffff600400
    .fill 70, 8, 1
indexed:
    .fill 2, 8, 0
site indexed
    .quad 0xffffffffff600400
no_exec_stack
