/* Calls of the vsyscall page, checked against system calls: from threads, in signal handlers, in children; and with
   system calls denied. As a program, or as a shared object whose values() a program calls.

   values check    each value lies between two that system calls give, as near as clocks agree
   values without  nothing needs the three system calls: they kill
   values only     nothing needs any system call but these three, and one to end */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 0xffffffffff600000
typedef int (*gettimeofday_t)(struct timeval *, struct timezone *);
typedef time_t (*time_function_t)(time_t *);
typedef int (*getcpu_t)(unsigned *, unsigned *, void *);

static int page_gettimeofday(struct timeval *now) { return ((gettimeofday_t)PAGE)(now, NULL); }
static time_t page_time(time_t *now) { return ((time_function_t)(PAGE + 0x400))(now); }
static int page_getcpu(unsigned *cpu, unsigned *node) { return ((getcpu_t)(PAGE + 0x800))(cpu, node, NULL); }

#ifdef ZEROS
char zeros[ZEROS];
extern char _end;

/* The zeroed data, the rest of its last page and the heap are the program's: it may fill all of them. */
static int memory_is_others(void) {
    char *heap = sbrk(1 << 20), *end = &_end;
    for (size_t at = 0; at < ZEROS; at++)
        if (zeros[at] != 0)
            return 1;
    if (heap == (char *)-1)
        return 1;
    memset(zeros, 0x55, ZEROS);
    memset(end, 0x55, -(unsigned long)end & 4095);
    memset(heap, 0x55, 1 << 20);
    return 0;
}
#else
static int memory_is_others(void) { return 0; }
#endif

#ifndef ROUNDS
#define ROUNDS 300000
#endif
enum { THREADS = 4 };

static volatile sig_atomic_t wrong, signals;

static long microseconds(const struct timeval *time) { return time->tv_sec * 1000000 + time->tv_usec; }

/* The kernel's own clock and the vDSO's copy are not brought up to date at the same instant. */
enum { APART_MICROSECONDS = 10, APART_SECONDS = 1 };

static void check_once(void) {
    struct timeval before, now = {0, 0}, after;
    time_t stored = 0;
    unsigned cpu = ~0u, node = ~0u;
    int error = errno = 77;
    syscall(SYS_gettimeofday, &before, NULL);
    int result = page_gettimeofday(&now);
    syscall(SYS_gettimeofday, &after, NULL);
    wrong |= result != 0 || microseconds(&before) > microseconds(&now) + APART_MICROSECONDS ||
             microseconds(&now) > microseconds(&after) + APART_MICROSECONDS;
    time_t first = syscall(SYS_time, NULL);
    time_t second = page_time(&stored);
    time_t third = syscall(SYS_time, NULL);
    wrong |= second != stored || first > second + APART_SECONDS || second > third + APART_SECONDS ||
             page_time(NULL) < second;
    wrong |= page_getcpu(&cpu, &node) != 0 || cpu > 100000 || node > 100000 || page_getcpu(NULL, NULL) != 0;
    wrong |= errno != error;
}

static void on_signal(int number) {
    (void)number;
    signals++;
    check_once();
}

static void *thread(void *unused) {
    for (int round = 0; round < ROUNDS; round++)
        check_once();
    return unused;
}

static int in_children(void) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        check_once();
        _exit(wrong);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return 1;
    child = vfork();
    if (child == 0) {
        time_t now = page_time(NULL);
        _exit(now < 1000000);
    }
    return child < 0 || waitpid(child, &status, 0) != child || status != 0;
}

static int check(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    pthread_t threads[THREADS];
    for (int number = 0; number < THREADS; number++)
        if (pthread_create(&threads[number], NULL, thread, NULL) != 0)
            return 3;
    for (int number = 0; number < THREADS; number++)
        pthread_join(threads[number], NULL);
    setitimer(ITIMER_REAL, &never, NULL);
    if (in_children())
        return 4;
    printf("%d values from %d threads%s\n", 5 * THREADS * ROUNDS, THREADS, signals > 100 ? ", under signals" : "");
    return wrong;
}

#define DENY_NUMBER(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL)
#define ALLOW_NUMBER(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static int filtered(struct sock_filter *code, unsigned short size) {
    struct sock_fprog program = {size, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* Each once, and whether the clocks agree. */
static int is_wrong(void) {
    struct timeval now;
    unsigned cpu;
    time_t first = page_time(NULL);
    page_gettimeofday(&now);
    page_getcpu(&cpu, NULL);
    return now.tv_sec < first || now.tv_sec > first + 2;
}

static int without(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DENY_NUMBER(SYS_gettimeofday),
        DENY_NUMBER(SYS_time),
        DENY_NUMBER(SYS_getcpu),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    if (filtered(code, sizeof code / sizeof *code))
        return 3;
    return is_wrong();
}

static int only(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW_NUMBER(SYS_gettimeofday),
        ALLOW_NUMBER(SYS_time),
        ALLOW_NUMBER(SYS_getcpu),
        ALLOW_NUMBER(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL),
    };
    if (filtered(code, sizeof code / sizeof *code))
        return 3;
    syscall(SYS_exit_group, is_wrong());
    return 3;
}

#ifdef CONSTRUCTORS
/* Words that are relocated before the array. */
static int *const here[] = {(int *)&wrong, (int *)&signals, (int *)&wrong};
int *const *values_here = here;

/* They run once, in their order, and get what the loader gives them. */
static int ran;
static void note(int argc, char **argv, char **environment, int number) {
    ran = ran == number - 1 && argc > 0 && argv[0] && !argv[argc] && environment[0] ? number : -1;
}
__attribute__((constructor(101))) static void first(int argc, char **argv, char **environment) {
    note(argc, argv, environment, 1);
}
__attribute__((constructor(102))) static void second(int argc, char **argv, char **environment) {
    note(argc, argv, environment, 2);
}
static int constructors_are_wrong(void) { return ran != 2; }
#else
static int constructors_are_wrong(void) { return 0; }
#endif

/* A system call says that the pointer is bad; the vDSO runs into it, as the emulated page does. */
static int bad(void) { return page_time((time_t *)8) != -EFAULT; }

int values(const char *what) {
    if (memory_is_others() || constructors_are_wrong())
        return 5;
    if (!strcmp(what, "check"))
        return check();
    if (!strcmp(what, "without"))
        return without();
    if (!strcmp(what, "bad"))
        return bad();
    return strcmp(what, "only") ? 2 : only();
}

#ifdef PROGRAM
int main(int argc, char **argv) { return argc == 2 ? values(argv[1]) : 2; }
#endif
