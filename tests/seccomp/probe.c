/* Tries system calls by name and prints what each was answered. Run in a container by ../seccomp.rs. The calls are made so
 * that the kernel itself answers with another error than the filter does. Static and at low addresses: the 32-bit entry of the
 * kernel takes pointers of 32 bits. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HIGH 0x100000000UL

static long answer(long result) { return result == -1 ? -errno : result; }

static long families(const char *number) { return answer(syscall(SYS_socket, strtoul(number, 0, 0), 1, 0)); }

static long process(unsigned long flags) {
  long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(0);
  if (pid > 0) waitpid(pid, 0, 0);
  return answer(pid);
}

#ifdef __x86_64__
static long entry32(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  return (int)result;
}
static int socket_arguments[3] = {1, 1, 0};
#endif

static long probe(const char *name) {
  if (!strncmp(name, "family:", 7)) return families(name + 7);
  if (!strcmp(name, "socketpair:tipc")) return answer(syscall(SYS_socketpair, 30, 1, 0, 0));
  if (!strcmp(name, "io_uring_setup")) return answer(syscall(425, 0, 0));
  if (!strcmp(name, "io_uring_enter")) return answer(syscall(426, -1, 0, 0, 0, 0, 0));
  if (!strcmp(name, "io_uring_register")) return answer(syscall(427, -1, 0, 0, 0));
  if (!strcmp(name, "clone")) return process(CLONE_NEWUSER);
  if (!strcmp(name, "clone-high")) return process(HIGH | CLONE_NEWUSER);
  if (!strcmp(name, "clone3")) return answer(syscall(435, 0, 0));
  if (!strcmp(name, "unshare")) return answer(syscall(SYS_unshare, CLONE_NEWUSER));
  if (!strcmp(name, "setns")) return answer(syscall(SYS_setns, -1, CLONE_NEWUSER));
  if (!strcmp(name, "add_key")) return answer(syscall(SYS_add_key, 0, 0, 0, 0, 0));
  if (!strcmp(name, "request_key")) return answer(syscall(SYS_request_key, 0, 0, 0, 0));
  if (!strcmp(name, "keyctl")) return answer(syscall(SYS_keyctl, 9999, 0, 0, 0, 0));
  if (!strcmp(name, "session")) return answer(syscall(SYS_keyctl, 0, -3, 0, 0, 0));
  if (!strcmp(name, "tiocsti")) return answer(syscall(SYS_ioctl, -1, 0x5412, 0));
  if (!strcmp(name, "tiocsti:0")) return answer(syscall(SYS_ioctl, 0, 0x5412, "x"));
  if (!strcmp(name, "tiocsti-high")) return answer(syscall(SYS_ioctl, -1, HIGH | 0x5412, 0));
  if (!strcmp(name, "tioclinux")) return answer(syscall(SYS_ioctl, -1, 0x541c, 0));
  if (!strcmp(name, "tcgets")) return answer(syscall(SYS_ioctl, -1, 0x5401, 0));
  if (!strcmp(name, "personality-high")) return answer(syscall(SYS_personality, HIGH | 0x0040000));
  if (!strcmp(name, "syslog")) return answer(syscall(SYS_syslog, 9, 0, 0));
  if (!strcmp(name, "perf_event_open")) return answer(syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
  if (!strcmp(name, "bpf")) return answer(syscall(SYS_bpf, 9999, 0, 0));
  if (!strcmp(name, "userfaultfd")) return answer(syscall(SYS_userfaultfd, 1));
  if (!strcmp(name, "kexec_load")) return answer(syscall(SYS_kexec_load, 0, 99, 0, 0));
  if (!strcmp(name, "open_by_handle_at")) return answer(syscall(SYS_open_by_handle_at, -1, 0, 0));
  if (!strcmp(name, "mount")) return answer(syscall(SYS_mount, 0, 0, 0, 0, 0));
  if (!strcmp(name, "new")) return answer(syscall(9999));
#ifdef __x86_64__
  if (!strcmp(name, "x32:getpid")) return answer(syscall(0x40000000 | SYS_getpid));
  if (!strcmp(name, "i386:getpid")) return entry32(20, 0, 0, 0);
  if (!strcmp(name, "i386:keyctl")) return entry32(288, 9999, 0, 0);
  if (!strcmp(name, "i386:socket:40")) return entry32(359, 40, 1, 0);
  if (!strcmp(name, "i386:socketcall")) return entry32(102, 1, (long)socket_arguments, 0);
  if (!strcmp(name, "i386:tiocsti")) return entry32(54, -1, 0x5412, 0);
  if (!strcmp(name, "i386:io_uring_setup")) return entry32(425, 0, 0, 0);
  if (!strcmp(name, "i386:clone")) return entry32(120, CLONE_NEWUSER | SIGCHLD, 0, 0);
#endif
  return -9999;
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    long result = probe(argv[i]);
    const char *error = result < 0 ? strerrorname_np(-result) : 0;
    if (!strcmp(argv[i], "session"))
      printf("session %ld\n", result);
    else
      printf("%s %s\n", argv[i], result >= 0 ? "ok" : error ? error : "?");
    fflush(stdout);
  }
}
