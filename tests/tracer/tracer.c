/* Runs a program and writes a line for every vsyscall that it and its children really make:
 *
 *     tracer OUTPUT PROGRAM ARGUMENT...
 *     PID ENTRY RETURN-ADDRESS OFFSET PATH
 *
 * numbers in hex without 0x (PID decimal), OFFSET and PATH of the return address as /proc/PID/maps has them, `-`
 * where it is in no file. A seccomp filter hands every system call whose instruction pointer is in the vsyscall page to
 * this process, which reads the return address from the top of the stack and lets the kernel go on with it.
 * Ends when the last process under the filter has, with the program's status; 125 where tracing itself fails. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "tracer: %s: %s\n", what, strerror(errno));
    exit(125);
}

/* The filter is this process's own from here on. Returns the listener. */
static int install(void) {
    const unsigned ip = offsetof(struct seccomp_data, instruction_pointer);
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0xff600000, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof steps / sizeof *steps, steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
    int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (listener < 0) fail("seccomp filter with a listener");
    return listener;
}

union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

static void send_descriptor(int to, int descriptor) {
    char byte = 0;
    struct iovec data = {&byte, 1};
    union control control = {0};
    struct msghdr message = {0};
    message.msg_iov = &data, message.msg_iovlen = 1;
    message.msg_control = &control, message.msg_controllen = sizeof control;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    if (sendmsg(to, &message, 0) != 1) fail("sending the listener");
}

static int receive_descriptor(int from) {
    char byte;
    int descriptor;
    struct iovec data = {&byte, 1};
    union control control = {0};
    struct msghdr message = {0};
    message.msg_iov = &data, message.msg_iovlen = 1;
    message.msg_control = &control, message.msg_controllen = sizeof control;
    if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message)) fail("no listener came");
    memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    return descriptor;
}

/* The word on the top of the stack of a process that waits for an answer; 0 where it cannot be read. */
static unsigned long return_address(int pid) {
    char path[64], line[512];
    unsigned long word = 0;
    /* It may not have begun to wait: then the file says `running`. */
    for (int tries = 0; tries < 10000; tries++, usleep(100)) {
        snprintf(path, sizeof path, "/proc/%d/syscall", pid);
        FILE *file = fopen(path, "re");
        if (!file) return 0;
        char *read = fgets(line, sizeof line, file);
        fclose(file);
        if (!read) return 0;
        /* NUMBER ARGUMENT... STACK-POINTER INSTRUCTION-POINTER */
        char *last = strrchr(line, ' ');
        if (!last) continue;
        *last = 0;
        char *stack = strrchr(line, ' ');
        if (!stack) return 0;
        snprintf(path, sizeof path, "/proc/%d/mem", pid);
        int memory = open(path, O_RDONLY | O_CLOEXEC);
        if (memory < 0) return 0;
        if (pread(memory, &word, sizeof word, strtoul(stack, 0, 16)) != sizeof word) word = 0;
        close(memory);
        return word;
    }
    return 0;
}

/* Writes the line of a call. Returns 0 where the process cannot be read. */
static int report(FILE *output, int pid, unsigned long entry) {
    unsigned long address = return_address(pid);
    char path[64], line[4096 + 128], name[4096] = "-";
    unsigned long found = 0;
    if (!address) return 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "re");
    if (!maps) return 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end, offset;
        int text = 0;
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %n", &start, &end, &offset, &text) < 3) continue;
        if (address < start || address >= end) continue;
        line[strcspn(line, "\n")] = 0;
        if (text && line[text] == '/') {
            snprintf(name, sizeof name, "%s", line + text);
            found = address - start + offset;
        }
    }
    fclose(maps);
    fprintf(output, "%d %lx %lx %lx %s\n", pid, entry, address, found, name);
    return 1;
}

int main(int argc, char **argv) {
    int pair[2], status;
    if (argc < 3) {
        fprintf(stderr, "tracer OUTPUT PROGRAM ARGUMENT...\n");
        return 125;
    }
    FILE *output = fopen(argv[1], "we");
    if (!output) fail(argv[1]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) fail("socketpair");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (!child) {
        int listener = install();
        send_descriptor(pair[1], listener);
        close(listener);
        execvp(argv[2], argv + 2);
        fprintf(stderr, "tracer: %s: %s\n", argv[2], strerror(errno));
        _exit(125);
    }
    close(pair[1]);
    int listener = receive_descriptor(pair[0]);
    for (;;) {
        struct pollfd ready = {listener, POLLIN, 0};
        int count = poll(&ready, 1, 60000);
        if (count < 0 && errno == EINTR) continue;
        if (count == 0) errno = ETIMEDOUT;
        if (count <= 0) fail("waiting for a vsyscall, or for the end");
        if (!(ready.revents & POLLIN)) break;
        struct seccomp_notif request;
        memset(&request, 0, sizeof request);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
            if (errno == EINTR || errno == ENOENT) continue;
            fail("receiving");
        }
        /* A signal may have come in between: then the call is made again, or the process is gone. */
        int known = report(output, request.pid, request.data.instruction_pointer);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id)) continue;
        if (!known) fail("reading the return address");
        struct seccomp_notif_resp response = {request.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT) fail("answering");
    }
    if (fclose(output)) fail(argv[1]);
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
