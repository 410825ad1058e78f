/* What a call costs, in nanoseconds: in a program that calls the page itself, and in an old glibc that does. Links
   against that glibc alone, and starts itself, so that today's start-up code is not needed. One line per round:
   page time, page gettimeofday, page getcpu, libc time, libc getcpu, vDSO time, vDSO gettimeofday, vDSO getcpu,
   system call time. */
#include <elf.h>
#include <stddef.h>

typedef struct { long seconds, microseconds; } timeval;
typedef long (*function)(void *, void *, void *);
extern long time(long *);
extern int sched_getcpu(void);
extern int printf(const char *, ...);
extern void exit(int);
extern int strcmp(const char *, const char *);

#ifndef ROUNDS
#define ROUNDS 15
#endif
enum { CALLS = 1000000 };
#define PAGE 0xffffffffff600000

/* A function, as those that it is held against: behind a system call, a return costs something. */
__attribute__((noinline)) static long system_call(long number, void *first, void *second) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(0L) : "rcx", "r11", "memory");
    return result;
}

static function in_vdso(const char *image, const char *name) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(image + header->e_phoff);
    const Elf64_Dyn *entry = NULL;
    for (int number = 0; number < header->e_phnum; number++)
        if (segments[number].p_type == PT_DYNAMIC)
            entry = (const Elf64_Dyn *)(image + segments[number].p_offset);
    const Elf64_Sym *symbols = NULL;
    const char *strings = NULL;
    for (; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_SYMTAB)
            symbols = (const Elf64_Sym *)(image + entry->d_un.d_ptr);
        if (entry->d_tag == DT_STRTAB)
            strings = image + entry->d_un.d_ptr;
    }
    /* The strings follow the symbols. */
    for (const Elf64_Sym *symbol = symbols; (const char *)symbol < strings; symbol++)
        if (!strcmp(strings + symbol->st_name, name))
            return (function)(image + symbol->st_value);
    return NULL;
}

static double nanoseconds(function clock, timeval begin) {
    timeval end;
    clock(&end, NULL, NULL);
    return ((end.seconds - begin.seconds) * 1e9 + (end.microseconds - begin.microseconds) * 1e3) / CALLS;
}

#define MEASURE(call)                                                                                                  \
    do {                                                                                                               \
        timeval begin;                                                                                                 \
        clock(&begin, NULL, NULL);                                                                                     \
        for (int number = 0; number < CALLS; number++)                                                                 \
            call;                                                                                                      \
        printf("%.2f ", nanoseconds(clock, begin));                                                                    \
    } while (0)

__attribute__((used)) static void begin(long *stack) {
    long *word = stack + 1 + *stack + 1;
    while (*word++)
        ;
    while (*word != 33) /* AT_SYSINFO_EHDR */
        word += 2;
    const char *image = (const char *)word[1];
    function vdso_time = in_vdso(image, "__vdso_time"), clock = in_vdso(image, "__vdso_gettimeofday");
    function vdso_getcpu = in_vdso(image, "__vdso_getcpu");
    timeval now;
    unsigned cpu;
    for (int round = 0; round < ROUNDS; round++) {
        MEASURE(((function)(PAGE + 0x400))(NULL, NULL, NULL));
        MEASURE(((function)PAGE)(&now, NULL, NULL));
        MEASURE(((function)(PAGE + 0x800))(&cpu, NULL, NULL));
        MEASURE(time(NULL));
        MEASURE(sched_getcpu());
        MEASURE(vdso_time(NULL, NULL, NULL));
        MEASURE(clock(&now, NULL, NULL));
        MEASURE(vdso_getcpu(&cpu, NULL, NULL));
        MEASURE(system_call(201, NULL, NULL));
        printf("\n");
    }
    exit(0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
