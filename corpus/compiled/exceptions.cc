// What C++ programs do with the addresses of the vsyscall page: calls around exceptions, through members and
// function objects, in templates. Prints a number and what came of it for each, as run.c does.
#include <cstdio>
#include <stdexcept>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

using Time = long (*)(long *);
static const Time TIME = reinterpret_cast<Time>(0xffffffffff600400UL);

static long now() { return syscall(SYS_time, 0); }
static bool near(long v) { return v >= now() - 30 && v <= now() + 30; }

__attribute__((noinline)) static void maybe(int n) { if (n % 3 == 2) throw std::runtime_error("third"); }

// The address may stay in a register that the unwinder restores.
static bool around_catch(int n) {
    long sum = 0;
    int caught = 0;
    for (int i = 0; i < n; i++) {
        try {
            maybe(i);
            sum += TIME(nullptr);
        } catch (const std::runtime_error &) {
            caught++;
            sum += TIME(nullptr);
        }
    }
    return caught == n / 3 && near(sum / n);
}

struct Guard {
    long &stamp;
    ~Guard() { stamp = TIME(nullptr); }
};
static bool in_destructor() {
    long stamp = 0;
    try {
        Guard guard{stamp};
        maybe(2);
    } catch (...) {
    }
    return near(stamp);
}

struct Clock {
    Time call = TIME;
    virtual long read() { return call(nullptr); }
    virtual ~Clock() = default;
};
static bool by_member() {
    Clock *clock = new Clock;
    long seconds = clock->read();
    delete clock;
    return near(seconds);
}

template <typename F> __attribute__((noinline)) static long apply(F f) { return f() + 1; }
static bool by_lambda() { return near(apply([] { return TIME(nullptr); }) - 1); }

int main() {
    bool (*const checks[])() = {[] { return around_catch(6); }, in_destructor, by_member, by_lambda};
    int number = 0;
    for (auto check : checks) {
        int status;
        pid_t child = fork();
        if (!child) _exit(check() ? 0 : 1);
        waitpid(child, &status, 0);
        std::printf("%d %s\n", number++, WIFSIGNALED(status) ? "killed" : status ? "wrong" : "ok");
    }
}
