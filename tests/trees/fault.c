/* Runs a program and lets one of its system calls that write fail, or be the one before which it is killed:
 *
 *     fault OUTPUT NUMBER ERROR PROGRAM ARGUMENT...
 *
 * The calls are counted from 1; call NUMBER (0: none) fails with ERROR, or the program is killed there where ERROR
 * is 0; where it is -1, the shell runs $FAULT_COMMAND first. Writes to the descriptors 0 to 2 do not count. OUTPUT
 * gets the name of each call, one a line.
 * Ends with the program's status, 137 where it was killed; 125 where this itself fails. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
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

#define CALLS(call)                                                                                                   \
    call(pwrite64) call(writev) call(pwritev) call(rename) call(renameat) call(renameat2) call(link) call(linkat)     \
    call(symlink) call(symlinkat) call(mknod) call(mknodat) call(unlink) call(unlinkat) call(mkdir) call(mkdirat)     \
    call(rmdir) call(fsync) call(fdatasync) call(syncfs) call(chmod) call(fchmod) call(fchmodat) call(chown)          \
    call(fchown) call(fchownat) call(lchown) call(setxattr) call(lsetxattr) call(fsetxattr) call(removexattr)         \
    call(lremovexattr) call(fremovexattr) call(utimensat) call(truncate) call(ftruncate) call(fallocate)              \
    call(copy_file_range) call(sendfile) call(creat)

static void fail(const char *what) {
    fprintf(stderr, "fault: %s: %s\n", what, strerror(errno));
    exit(125);
}

static const char *name_of(int number) {
    switch (number) {
#define NAME(call)                                                                                                    \
    case __NR_##call: return #call;
        CALLS(NAME)
    case __NR_write: return "write";
    case __NR_openat: return "openat";
    default: return "?";
    }
}

/* The filter is this process's own from here on. Returns the listener. */
static int install(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#define STEP(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        CALLS(STEP)
        /* write: not to the standard descriptors */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_write, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        /* openat: where it may make a file */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 0, 1),
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

int main(int argc, char **argv) {
    int pair[2], status, calls = 0;
    if (argc < 5) {
        fprintf(stderr, "fault OUTPUT NUMBER ERROR PROGRAM ARGUMENT...\n");
        return 125;
    }
    int wanted = atoi(argv[2]), error = atoi(argv[3]);
    FILE *output = fopen(argv[1], "we");
    if (!output) fail(argv[1]);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) fail("socketpair");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (!child) {
        int listener = install();
        send_descriptor(pair[1], listener);
        close(listener);
        execvp(argv[4], argv + 4);
        fprintf(stderr, "fault: %s: %s\n", argv[4], strerror(errno));
        _exit(125);
    }
    close(pair[1]);
    int listener = receive_descriptor(pair[0]);
    for (;;) {
        struct pollfd ready = {listener, POLLIN, 0};
        int count = poll(&ready, 1, 60000);
        if (count < 0 && errno == EINTR) continue;
        if (count == 0) errno = ETIMEDOUT;
        if (count <= 0) fail("waiting for a call, or for the end");
        if (!(ready.revents & POLLIN)) break;
        struct seccomp_notif request;
        memset(&request, 0, sizeof request);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
            if (errno == EINTR || errno == ENOENT) continue;
            fail("receiving");
        }
        int is_wanted = ++calls == wanted;
        fprintf(output, "%s\n", name_of(request.data.nr));
        if (is_wanted && !error) {
            if (kill(child, SIGKILL)) fail("killing");
            break;
        }
        struct seccomp_notif_resp response = {request.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (is_wanted && error < 0 && system(getenv("FAULT_COMMAND"))) fail("the command");
        if (is_wanted && error > 0) response.error = -error, response.flags = 0;
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT) fail("answering");
    }
    if (fclose(output)) fail(argv[1]);
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
