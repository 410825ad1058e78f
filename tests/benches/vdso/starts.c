/* What starting programs costs, in microseconds: each in turn, ROUNDS times; the median of the pairs' differences to the
   first, and the first's own. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 4001, MOST = 8 };
extern char **environ;

static double start(char *program) {
    struct timespec before, after;
    char *arguments[] = {program, NULL};
    pid_t child;
    int status;
    clock_gettime(CLOCK_MONOTONIC, &before);
    if (posix_spawn(&child, program, NULL, NULL, arguments, environ) || waitpid(child, &status, 0) != child || status)
        exit(1);
    clock_gettime(CLOCK_MONOTONIC, &after);
    return (after.tv_sec - before.tv_sec) * 1e6 + (after.tv_nsec - before.tv_nsec) / 1e3;
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static double times[MOST][ROUNDS];

int main(int count, char **programs) {
    for (int round = 0; round < ROUNDS; round++)
        for (int number = 1; number < count && number < MOST; number++)
            times[number][round] = start(programs[number]);
    for (int number = count - 1; number > 0; number--) {
        for (int round = 0; round < ROUNDS && number > 1; round++)
            times[number][round] -= times[1][round];
        qsort(times[number], ROUNDS, sizeof(double), ascending);
        printf("%s %s%.1f us\n", programs[number], number > 1 ? "+" : "", times[number][ROUNDS / 2]);
    }
}
