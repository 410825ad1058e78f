# Words that an entry's address is stored to and that are called through, and that other code compares, computes with or
# reads a half of where they stand, or asks for the sign of: a stub's address would be another number.
#@ expect: compared entry=time form=stored-fallback verdict=refused function=store_compared
#@ expect: added entry=time form=stored-fallback verdict=refused function=store_added
#@ expect: halved entry=time form=stored-fallback verdict=refused function=store_halved
#@ expect: signed entry=time form=stored-fallback verdict=refused function=store_signed
#@ expect: kept entry=time form=direct-call|stored-fallback verdict=refused function=store_called
#@ expect: slot entry=time form=stored-fallback verdict=refused
#@ may: number entry=time form=data-word verdict=unproven|harmless
#@ run: 0
.include "common.inc"
.macro store name
func store_\name
site \name
    movq $0xffffffffff600400, word_\name(%rip)
    ret
endfunc store_\name
func by_\name
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call *word_\name(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_\name
.endm
.text
store compared
store added
store halved
store signed
func is_in_page
    mov begin_of_page(%rip), %rax
    cmp %rax, word_compared(%rip)
    setae %al
    movzbl %al, %eax
    ret
endfunc is_in_page
func next_entry
    mov $0x400, %eax
    add word_added(%rip), %rax
    ret
endfunc next_entry
func number_of_entry
    mov word_halved(%rip), %eax
    shr $10, %eax
    and $3, %eax
    ret
endfunc number_of_entry
func is_in_upper_half
    xor %edx, %edx
    mov word_signed(%rip), %rax
    test %rax, %rax
    sets %dl
    mov %rdx, %rax
    ret
endfunc is_in_upper_half
# Called at once, and stored for others, who compute with it.
func store_called
    sub $8, %rsp
    .cfi_def_cfa_offset 16
site kept
    mov $0xffffffffff600400, %rax
    mov %rax, word_kept(%rip)
    call *%rax
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc store_called
func distance_of_kept
    mov word_kept(%rip), %rax
    neg %rax
    ret
endfunc distance_of_kept
# Stored to a word by code that gets it back from a function that it passed its place on the stack, and compares it.
func store_and_compare
    sub $24, %rsp
    .cfi_def_cfa_offset 32
    mov own(%rip), %rax
    test %rax, %rax
    jne 1f
site slot
    mov $0xffffffffff600400, %rax
1:  mov %rax, word_of_slot(%rip)
    mov %rax, 8(%rsp)
    lea 8(%rsp), %rdi
    call nothing
    mov 8(%rsp), %rax
    cmp number(%rip), %rax
    sete %al
    movzbl %al, %eax
    add $24, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc store_and_compare
func nothing
    ret
endfunc nothing
func by_slot
    sub $8, %rsp
    .cfi_def_cfa_offset 16
    call *word_of_slot(%rip)
    add $8, %rsp
    .cfi_def_cfa_offset 8
    ret
endfunc by_slot
begin
call store_and_compare
cmp $1, %rax
jne .Lbad
check_time by_slot
call store_compared
call store_added
call store_halved
call store_signed
check_time by_compared
check_time by_added
check_time by_halved
check_time by_signed
check_time store_called
call is_in_page
cmp $1, %rax
jne .Lbad
call next_entry
neg %rax
cmp $0x9ff800, %rax
jne .Lbad
call number_of_entry
cmp $1, %rax
jne .Lbad
call is_in_upper_half
cmp $1, %rax
jne .Lbad
call distance_of_kept
cmp $0x9ffc00, %rax
jne .Lbad
finish
.data
.balign 8
begin_of_page: .quad -0xa00001
site number
number: .quad -0x9ffc00
.bss
.balign 8
own: .quad 0
word_of_slot: .quad 0
word_compared: .quad 0
word_added: .quad 0
word_halved: .quad 0
word_signed: .quad 0
word_kept: .quad 0
no_exec_stack
