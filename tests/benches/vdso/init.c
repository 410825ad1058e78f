/* What the init function of shared objects costs, once all is in the caches, in nanoseconds. */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <time.h>

enum { CALLS = 1000, ROUNDS = 21 };
extern char **environ;

static double nanoseconds(void (*init)(int, char **, char **), int count, char **words) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (int call = 0; call < CALLS; call++)
        init(count, words, environ);
    clock_gettime(CLOCK_MONOTONIC, &after);
    return ((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) / CALLS;
}

int main(int count, char **words) {
    for (int number = 1; number < count; number++) {
        struct link_map *object = dlopen(words[number], RTLD_NOW);
        if (!object)
            return 1;
        void (*init)(int, char **, char **) = NULL;
        for (ElfW(Dyn) *entry = object->l_ld; entry->d_tag; entry++)
            if (entry->d_tag == DT_INIT)
                init = (void (*)(int, char **, char **))(object->l_addr + entry->d_un.d_ptr);
        double least = 1e9;
        for (int round = 0; round < ROUNDS; round++) {
            double now = nanoseconds(init, count, words);
            least = now < least ? now : least;
        }
        printf("%s %.0f ns\n", words[number], least);
    }
}
