# push of the constant and ret: a jump in other words.
#@ expect: push entry=time form=tail-jump verdict=patch|refused reach=always function=time_push
#@ expect: long entry=time form=tail-jump verdict=patch|refused reach=always function=time_push_long
#@ run: 0
.include "common.inc"
.text
func time_push
site push
    push $0xffffffffff600400
    ret
endfunc time_push
func time_push_long
site long
    push $0xffffffffff600400
    repz ret
endfunc time_push_long
begin
check_time time_push
check_time time_push_long
finish
no_exec_stack
