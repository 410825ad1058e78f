/* Calls of a shared object that are made before its init function has run: by its own resolver, and by the constructor of
   an object that it needs. Three files: BEFORE, OBJECT, and the program. */
#include <time.h>

#define PAGE 0xffffffffff600000
typedef time_t (*time_function_t)(time_t *);

time_t now(void) __attribute__((weak));
extern time_t begun_at;
int check(void);

#ifdef BEFORE
time_t begun_at;
__attribute__((constructor)) static void begin(void) { begun_at = now(); }
#elif defined OBJECT
static time_t resolved_at;
time_t now(void) { return ((time_function_t)(PAGE + 0x400))(NULL); }
static int answer(void) { return 42; }
static int (*resolve(void))(void) {
    resolved_at = ((time_function_t)(PAGE + 0x400))(NULL);
    return answer;
}
int early(void) __attribute__((ifunc("resolve")));
static int is_near(time_t past, time_t present) { return past <= present + 1 && past + 60 >= present; }
int check(void) {
    time_t present = now();
    return early() != 42 || !is_near(resolved_at, present) || !is_near(begun_at, present) || !is_near(present, time(NULL));
}
#else
int main(void) { return check(); }
#endif
