/* Loads the shared object of values.c, late and with another environment than it was started with, or finds it
   preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    unsetenv("PATH");
    unsetenv("LANG");
    for (int number = 0; number < 300; number++) {
        char name[20];
        snprintf(name, sizeof name, "NEW_%d", number);
        setenv(name, "x", 1);
    }
    void *object = argc == 3 ? dlopen(argv[2], RTLD_NOW) : RTLD_DEFAULT;
    int (*values)(const char *) = (int (*)(const char *))dlsym(object, "values");
    if (!values) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    return values(argv[1]);
}
