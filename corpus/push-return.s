# push of the constant and ret: a jump in other words.
#@ expect: push entry=time form=tail-jump verdict=patch|refused reach=always function=time_push
#@ run: 0
.include "common.inc"
.text
func time_push
site push
    push $0xffffffffff600400
    ret
endfunc time_push
begin
check_time time_push
finish
no_exec_stack
