/* Calls every function of forms.c, each in a process of its own, and prints what came of it: `ok`, `wrong`
 * where the result is not what the real system calls say, `killed`. */
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
struct tv { long s, us; };
int opaque(long x) { return (int)x; }
void *mmap_hint(void *p, unsigned long n) { return (char *)p + n; }
long f_time_null(void), f_time_ptr(long *), f_gtod(struct tv *), f_gtod_local(void), f_getcpu(void), f_twice(void),
    f_loop(int), f_loop_gtod(int), f_var(void), f_volatile_var(void), f_select(int, struct tv *),
    f_ternary(int, void *), f_fallback(struct tv *), f_static_ptr(void), f_const_ptr(void), f_global_ptr(void),
    f_table(int, void *), f_ctable(int, void *), f_ops(void), f_ops2(struct tv *), f_macro_known(void),
    f_macro_unknown(int, void *), f_or_unknown(unsigned, void *), f_argument(void), f_argument2(int),
    f_across_call(int), f_across_call_loop(int), f_switch(int, void *), f_cold(int), f_likely(struct tv *),
    f_lazy(void), f_asm(void), f_call_returned(void), f_spilled(int, int, int, int, int, int),
    f_fields(int, void *), f_fields_from_one(int, void *), f_walk(int), f_by_name(const char *, void *);

struct ops { long pad; long (*t)(long *); long (*g)(struct tv *, void *); };
void set_vdso(void *), set_ptr(long (*)(long *)), set_table(int, void *), set_ops(struct ops *),
    set_walk(int, long (*)(long *));
static long mine(void) { return 42; }

static long now(void) { return syscall(SYS_time, 0); }
static int near(long v, long want) { return v >= want - 30 && v <= want + 30; }
static int t(long v) { return near(v, now()); }
static struct tv tv;
static long stored;
static int g(long r) { return r == 0 && t(tv.s) && tv.us >= 0 && tv.us < 1000000; }

static int check(int number) {
    switch (number) {
    case 0: return t(f_time_null());
    case 1: return t(f_time_ptr(&stored)) && t(stored);
    case 2: return g(f_gtod(&tv));
    case 3: return f_gtod_local() / 1000000 > now() - 30;
    case 4: return f_getcpu() >= 0;
    case 5: return near(f_twice(), 2 * now());
    case 6: return f_loop(5) > 4 * now();
    case 7: return f_loop_gtod(5) >= 0;
    case 8: return t(f_var());
    case 9: return t(f_volatile_var());
    case 10: return t(f_select(1, 0)) && g(f_select(0, &tv));
    case 11: return g(f_ternary(1, &tv)) && t(f_ternary(0, 0));
    case 12: return g(f_fallback(&tv));
    case 13: return t(f_static_ptr());
    case 14: return t(f_const_ptr());
    case 15: return t(f_global_ptr());
    case 16: return g(f_table(0, &tv)) && t(f_table(1, 0));
    case 17: return g(f_ctable(0, &tv)) && t(f_ctable(1, 0));
    case 18: return t(f_ops());
    case 19: return g(f_ops2(&tv));
    case 20: return t(f_macro_known());
    case 21: return g(f_macro_unknown(0, &tv)) && t(f_macro_unknown(1, 0));
    case 22: return g(f_or_unknown(0, &tv)) && t(f_or_unknown(1, 0));
    case 23: return t(f_argument() - 1);
    case 24: return t(f_argument2(5) - 5);
    case 25: return t(f_across_call(7) - 7);
    case 26: return f_across_call_loop(4) > now() * 3;
    case 27:
        return t(f_switch(0, 0)) && g(f_switch(1, &tv)) && f_switch(3, 0) == 1 && t(f_switch(4, 0) - 2) &&
               f_switch(5, 0) == 7 && f_switch(6, 0) == 18 && f_switch(9, 0) == -1;
    case 28: return t(f_cold(12345)) && f_cold(1) == 1;
    case 29: return g(f_likely(&tv));
    case 30: return t(f_lazy()) && t(f_lazy());
    case 31: return t(f_asm());
    case 32: return t(f_call_returned());
    case 33: return f_spilled(3, 1, 2, 3, 4, 5) > now() * 2;
    /* What the program replaces at run time is what it calls then. */
    case 34: {
        struct ops own = {1, (long (*)(long *))mine, (long (*)(struct tv *, void *))mine};
        set_ops(&own);
        return f_ops() == 42 && f_ops2(&tv) == 42;
    }
    case 35: set_ptr((long (*)(long *))mine); return f_static_ptr() == 42;
    case 36: set_table(1, (void *)mine); return f_table(1, 0) == 42;
    case 37: set_vdso((void *)mine); return f_fallback(&tv) == 42 && f_lazy() == 42;
    case 38: return g(f_fields(0, &tv)) && t(f_fields(1, 0));
    case 39: return g(f_fields_from_one(1, &tv)) && t(f_fields_from_one(2, 0));
    case 40: return near(f_walk(2), 2 * now());
    case 41: return t(f_by_name("time", 0)) && g(f_by_name("gettimeofday", &tv)) && f_by_name("none", 0) == -1;
    case 42: set_walk(0, (long (*)(long *))mine); return near(f_walk(2), 42 + now());
    default: return 0;
    }
}

int main(void) {
    for (int number = 0; number <= 42; number++) {
        int status;
        pid_t child = fork();
        if (!child) _exit(check(number) ? 0 : 1);
        waitpid(child, &status, 0);
        printf("%d %s\n", number, WIFSIGNALED(status) ? "killed" : status ? "wrong" : "ok");
    }
    return 0;
}
