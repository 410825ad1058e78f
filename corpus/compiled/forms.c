/* What C programs do with the addresses of the vsyscall page: the forms that compilers make of it, at every
 * level of optimisation, and some look-alikes. run.c calls all of it. */
#include <stddef.h>
typedef long time_t_; struct tv { long s, us; };
typedef time_t_ (*time_fn)(time_t_ *); typedef long (*gtod_fn)(struct tv *, void *); typedef long (*getcpu_fn)(unsigned *, unsigned *, void *);
#define TIME ((time_fn)0xffffffffff600400UL)
#define GTOD ((gtod_fn)0xffffffffff600000UL)
#define GETCPU ((getcpu_fn)0xffffffffff600800UL)
#define VADDR(nr) ((-10UL << 20) + 1024 * (nr))
long f_time_null(void) { return TIME(0); }
long f_time_ptr(time_t_ *t) { return TIME(t); }
long f_gtod(struct tv *tv) { return GTOD(tv, 0); }
long f_gtod_local(void) { struct tv tv; GTOD(&tv, 0); return tv.s * 1000000 + tv.us; }
long f_getcpu(void) { unsigned c, n; long r = GETCPU(&c, &n, 0); return r ? r : (long)c; }
long f_twice(void) { return TIME(0) + TIME(0); }
long f_loop(int n) { long s = 0; for (int i = 0; i < n; i++) s += TIME(0); return s; }
long f_loop_gtod(int n) { struct tv tv; long s = 0; for (int i = 0; i < n; i++) { GTOD(&tv, 0); s += tv.us; } return s; }
long f_var(void) { time_fn f = TIME; return f(0); }
long f_volatile_var(void) { volatile time_fn f = TIME; return f(0); }
long f_select(int k, struct tv *tv) { if (k) return TIME((time_t_ *)tv); return GTOD(tv, 0); }
long f_ternary(int k, void *p) { gtod_fn f = k ? GTOD : (gtod_fn)TIME; return f(p, 0); }
static gtod_fn vdso_gtod; long f_fallback(struct tv *tv) { gtod_fn f = vdso_gtod ? vdso_gtod : GTOD; return f(tv, 0); }
void set_vdso(void *p) { vdso_gtod = p; }
static time_fn table_ptr = TIME; long f_static_ptr(void) { return table_ptr(0); } void set_ptr(time_fn f) { table_ptr = f; }
static time_fn const const_ptr = TIME; long f_const_ptr(void) { return const_ptr(0); }
time_fn global_ptr = TIME; long f_global_ptr(void) { return global_ptr(0); }
static void *table[3] = {(void *)0xffffffffff600000UL, (void *)0xffffffffff600400UL, (void *)0xffffffffff600800UL};
long f_table(int i, void *p) { return ((gtod_fn)table[i])(p, 0); }
void set_table(int i, void *p) { table[i] = p; }
static void *const ctable[3] = {(void *)0xffffffffff600000UL, (void *)0xffffffffff600400UL, (void *)0xffffffffff600800UL};
long f_ctable(int i, void *p) { return ((gtod_fn)ctable[i])(p, 0); }
struct ops { long pad; time_fn t; gtod_fn g; }; static struct ops ops = {7, TIME, GTOD};
long f_ops(void) { return ops.t(0); } long f_ops2(struct tv *tv) { return ops.g(tv, 0); } void set_ops(struct ops *o) { ops = *o; }
long f_macro_known(void) { return ((time_fn)VADDR(1))(0); }
long f_macro_unknown(int nr, void *p) { return ((gtod_fn)VADDR((unsigned long)nr))(p, 0); }
long f_or_unknown(unsigned nr, void *p) { return ((gtod_fn)(0xffffffffff600000UL | (nr << 10)))(p, 0); }
static __attribute__((noinline)) long apply(time_fn f, time_t_ *t) { return f(t) + 1; }
long f_argument(void) { return apply(TIME, 0); }
static __attribute__((noinline)) long apply2(int n, time_fn f, time_t_ *t) { if (n < 3) return n; return f(t) + n; }
long f_argument2(int n) { return apply2(n, TIME, 0); }
extern int opaque(long); long f_across_call(int n) { time_fn f = TIME; long a = opaque(n); return f(0) + a; }
long f_across_call_loop(int n) { long s = 0; for (int i = 0; i < n; i++) { opaque(i); s += TIME(0); } return s; }
long f_switch(int n, void *p) { switch (n) { case 0: return TIME(p); case 1: return GTOD(p, 0); case 2: return GETCPU(p, 0, 0); case 3: return opaque(1); case 4: return opaque(2) + TIME(0); case 5: return opaque(7); case 6: return opaque(9) * 2; default: return -1; } }
long f_cold(int n) { if (__builtin_expect(n == 12345, 0)) { opaque(3); return TIME(0); } return n; }
long f_likely(struct tv *tv) { long r = GTOD(tv, 0); if (__builtin_expect(r != 0, 0)) opaque((int)r); return r; }
static time_fn lazy; long f_lazy(void) { if (!lazy) lazy = vdso_gtod ? (time_fn)vdso_gtod : TIME; return lazy(0); }
long f_asm(void) { long r; __asm__ volatile("mov $0xffffffffff600400,%%rax\n\tcall *%%rax" : "=a"(r) : "D"(0) : "rcx", "r11", "memory"); return r; }
time_fn f_return_pointer(void) { return TIME; }
long f_call_returned(void) { return f_return_pointer()(0); }
int f_compare(void *p) { return p == (void *)0xffffffffff600000UL; }
void f_store_key(unsigned long *t) { t[0] = 0xffffffffff600000UL; t[1] = 0xffffffffff600400UL; }
extern void *mmap_hint(void *, unsigned long); void *f_hint(void) { return mmap_hint((void *)0xffffffffff600000UL, 4096); }
long f_spilled(int a, int b, int c, int d, int e, int f) { time_fn t = TIME; gtod_fn g = GTOD; getcpu_fn k = GETCPU; struct tv tv; unsigned cpu; long s = 0; for (int i = 0; i < a; i++) { s += t(0) + b; opaque(c); g(&tv, 0); s += tv.us + d; opaque(e); k(&cpu, 0, 0); s += cpu * f; } return s; }
struct call { const char *name; gtod_fn f; };
static const struct call calls[] = {{"gettimeofday", GTOD}, {"time", (gtod_fn)TIME}, {"getcpu", (gtod_fn)GETCPU}};
long f_fields(int i, void *p) { return calls[i].f(p, 0); }
long f_fields_from_one(int number, void *p) { return calls[number - 1].f(p, 0); }
struct numbered { const char *name; int number; time_fn f; };
static struct numbered numbered[] = {{"first", 1, TIME}, {"second", 2, TIME}, {"third", 3, TIME}};
long f_walk(int without) { long s = 0; for (struct numbered *n = numbered; n < numbered + 3; n++) if (n->number++ != without) s += n->f(0); return s; }
void set_walk(int i, time_fn f) { numbered[i].f = f; }
static int equal(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }
static const struct call named[] = {{"getcpu", (gtod_fn)GETCPU}, {"gettimeofday", GTOD}, {"time", (gtod_fn)TIME}, {0, 0}};
long f_by_name(const char *name, void *p) { for (const struct call *c = named; c->name; c++) if (equal(c->name, name)) return c->f(p, 0); return -1; }
