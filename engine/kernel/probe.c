/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "probe.h"
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/kcmp.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif
#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* The headers of an older kernel may lack them: as in linux/fs.h of 6.7 and 6.11. */
struct probe_pm_scan_arg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PROBE_PAGEMAP_SCAN _IOWR('f', 16, struct probe_pm_scan_arg)

struct probe_procmap_query {
  uint64_t size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
#define PROBE_PROCMAP_QUERY _IOWR('f', 17, struct probe_procmap_query)

static void fd_close(int *fd) {
  if (*fd >= 0)
    (void)close(*fd);
}
#define probe_fd __attribute__((cleanup(fd_close))) int

static bool path_exists(const char *path) {
  return access(path, F_OK) == 0;
}

static bool file_mentions(const char *path, const char *word) {
  char text[8192];
  probe_fd fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  text[n > 0 ? n : 0] = 0;
  return strstr(text, word) != NULL;
}

static bool fdinfo_mentions(int fd, const char *word) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  return file_mentions(path, word);
}

/* Runs @test on a child that stands still under ptrace. */
static bool with_traced_child(bool (*test)(pid_t pid)) {
  pid_t pid = fork();
  if (pid < 0)
    return false;
  if (pid == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
      (void)raise(SIGSTOP);
    _exit(0);
  }
  int status = 0;
  bool stopped = waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
  bool has = stopped && test(pid);
  if (stopped) {
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
  }
  return has;
}

static bool test_clone3_set_tid(void) {
  /* A pid that is in use: the kernel that knows set_tid answers EEXIST, if we may at all. */
  pid_t tid = getpid();
  struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&tid, .set_tid_size = 1};
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0)
    _exit(0);
  if (pid > 0)
    (void)waitpid((pid_t)pid, NULL, 0);
  return pid > 0 || errno == EEXIST;
}

static bool test_pidfd_getfd(void) {
  probe_fd pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  probe_fd copy = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, pidfd, 0);
  return copy >= 0;
}

static bool test_pagemap_scan(void) {
  probe_fd fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  struct probe_pm_scan_arg arg = {.size = sizeof arg};
  return fd >= 0 && ioctl(fd, PROBE_PAGEMAP_SCAN, &arg) == 0;
}

static bool test_procmap_query(void) {
  probe_fd fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  struct probe_procmap_query query = {.size = sizeof query, .query_addr = (uintptr_t)&fd};
  return fd >= 0 && ioctl(fd, PROBE_PROCMAP_QUERY, &query) == 0;
}

static bool test_kcmp(void) {
  return syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) == 0;
}

static bool test_kcmp_epoll(void) {
  probe_fd epfd = epoll_create1(EPOLL_CLOEXEC);
  probe_fd target = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  if (epfd < 0 || target < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, target, &event) < 0)
    return false;
  struct kcmp_epoll_slot slot = {.efd = (uint32_t)epfd, .tfd = (uint32_t)target};
  return syscall(SYS_kcmp, getpid(), getpid(), KCMP_EPOLL_TFD, target, &slot) == 0;
}

static bool traced_rseq(pid_t pid) {
  char configuration[64];
  return ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, 24L, configuration) >= 0;
}

static bool test_rseq(void) {
  return with_traced_child(traced_rseq);
}

static bool traced_seccomp_suspend(pid_t pid) {
  return ptrace(PTRACE_SETOPTIONS, pid, NULL, (long)PTRACE_O_SUSPEND_SECCOMP) == 0;
}

static bool test_seccomp_suspend(void) {
  return with_traced_child(traced_seccomp_suspend);
}

static bool traced_seccomp_filters(pid_t pid) {
  return ptrace(PTRACE_SECCOMP_GET_FILTER, pid, NULL, NULL) >= 0 || (errno != EIO && errno != EACCES);
}

static bool test_seccomp_filters(void) {
  return with_traced_child(traced_seccomp_filters);
}

static bool test_mm_map(void) {
  unsigned size = 0;
  return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0 && size > 0;
}

static bool test_map_files(void) {
  return path_exists("/proc/self/map_files");
}

static bool test_map_vdso(void) {
#ifdef ARCH_MAP_VDSO_64
  /* Refused because there is one already; an old kernel answers EINVAL. */
  return syscall(SYS_arch_prctl, ARCH_MAP_VDSO_64, 0x10000) < 0 && errno == EEXIST;
#else
  return false;
#endif
}

static bool test_timer_ids(void) {
  return prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
}

static bool test_guards(void) {
  long page = sysconf(_SC_PAGESIZE);
  void *p = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return false;
  bool has = madvise(p, (size_t)page, MADV_GUARD_INSTALL) == 0;
  (void)munmap(p, (size_t)page);
  return has;
}

static bool test_mnt_id(void) {
  probe_fd fd = open("/", O_PATH | O_CLOEXEC);
  return fd >= 0 && fdinfo_mentions(fd, "mnt_id:");
}

static bool test_fdinfo_lock(void) {
  probe_fd fd = (int)syscall(SYS_memfd_create, "probe", 0);
  return fd >= 0 && flock(fd, LOCK_EX) == 0 && fdinfo_mentions(fd, "lock:");
}

static bool pagemap_bit(const void *page, int bit) {
  uint64_t entry = 0;
  probe_fd fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  off_t at = (off_t)((uintptr_t)page / (uintptr_t)sysconf(_SC_PAGESIZE) * sizeof entry);
  return fd >= 0 && pread(fd, &entry, sizeof entry, at) == sizeof entry && entry >> bit & 1;
}

/* In a child, so that nobody's dirty bits of ours are lost. */
static bool test_mem_dirty_track(void) {
  pid_t pid = fork();
  if (pid == 0) {
    volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
      _exit(1);
    page[0] = 1;
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool cleared = fd >= 0 && write(fd, "4", 1) == 1 && !pagemap_bit((const void *)page, 55);
    page[0] = 2;
    _exit(cleared && pagemap_bit((const void *)page, 55) ? 0 : 1);
  }
  int status = 1;
  return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static bool test_aio_remap(void) {
  aio_context_t ring = 0;
  if (syscall(SYS_io_setup, 1, &ring) < 0)
    return false;
  void *there = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void *moved = mremap((void *)ring, 4096, 4096, MREMAP_FIXED | MREMAP_MAYMOVE, there);
  bool has = moved == there && there != MAP_FAILED;
  if (has)
    ring = (aio_context_t)moved;
  return syscall(SYS_io_destroy, ring) == 0 && has;
}

static bool test_timerfd(void) {
  probe_fd fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  struct itimerspec far = {.it_value = {.tv_sec = 1000}};
  uint64_t ticks = 3, got = 0;
  return fd >= 0 && timerfd_settime(fd, 0, &far, NULL) == 0 && ioctl(fd, TFD_IOC_SET_TICKS, &ticks) == 0 &&
         read(fd, &got, sizeof got) == sizeof got && got == ticks;
}

static bool test_tun(void) {
  probe_fd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  return fd >= 0;
}

static bool test_userns(void) {
  return path_exists("/proc/self/ns/user");
}

static bool test_cgroupns(void) {
  return path_exists("/proc/self/ns/cgroup");
}

static bool test_timens(void) {
  return path_exists("/proc/self/ns/time");
}

static bool test_loginuid(void) {
  return access("/proc/self/loginuid", W_OK) == 0;
}

static bool test_autofs(void) {
  return file_mentions("/proc/filesystems", "autofs");
}

static bool test_tcp_repair(void) {
  probe_fd fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int on = 1;
  return fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0;
}

static uint64_t uffd_features(void) {
  probe_fd fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API};
  return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? api.features | 1ULL << 63 : 0;
}

static bool test_uffd(void) {
  return uffd_features() != 0;
}

static bool test_uffd_noncoop(void) {
  const uint64_t wanted =
      UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE;
  return (uffd_features() & wanted) == wanted;
}

static bool test_sk_ns(void) {
  probe_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  probe_fd ns = fd < 0 ? -1 : ioctl(fd, SIOCGSKNS);
  return ns >= 0;
}

static bool test_sk_unix_file(void) {
  /* A socket that is bound nowhere: ENOENT, where the request is known. */
  probe_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd >= 0 && ioctl(fd, SIOCUNIXFILE) < 0 && errno == ENOENT;
}

static bool test_sockopt_buf_lock(void) {
  probe_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int value;
  socklen_t size = sizeof value;
  return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &value, &size) == 0;
}

static bool test_ns_pid(void) {
  return file_mentions("/proc/self/status", "NSpid:");
}

static bool test_memfd_hugetlb(void) {
  probe_fd fd = (int)syscall(SYS_memfd_create, "probe", 4U /* MFD_HUGETLB */);
  return fd >= 0;
}

static bool test_openat2(void) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
  probe_fd fd = (int)syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how);
  return fd >= 0;
}

static bool test_ipv6_freebind(void) {
  probe_fd fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int on = 1;
  return fd >= 0 && setsockopt(fd, IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, &on, sizeof on) == 0;
}

static bool test_apparmor_stacking(void) {
  return path_exists("/sys/kernel/security/apparmor/features/domain/stack");
}

static bool test_net_diag(void) {
  probe_fd fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 4 /* NETLINK_SOCK_DIAG */);
  return fd >= 0;
}

static const Probe probes[] = {
    {"clone3_set_tid", "pids can be chosen (clone3 set_tid)", true, test_clone3_set_tid},
    {"pidfd_store", "descriptors of other tasks can be copied (pidfd_getfd)", true, test_pidfd_getfd},
    {"pagemap_scan", "pages in use can be listed (PAGEMAP_SCAN)", false, test_pagemap_scan},
    {"procmap_query", "mappings can be looked up (PROCMAP_QUERY)", false, test_procmap_query},
    {"kcmp", "shared resources can be told (kcmp)", true, test_kcmp},
    {"kcmp_epoll", "targets of epoll can be told (KCMP_EPOLL_TFD)", true, test_kcmp_epoll},
    {"get_rseq_conf", "restartable sequences can be read (PTRACE_GET_RSEQ_CONFIGURATION)", true, test_rseq},
    {"prctl_mm_map", "memory layout can be set (PR_SET_MM_MAP)", true, test_mm_map},
    {"map_files", "mapped files can be opened (/proc/PID/map_files)", true, test_map_files},
    {"can_map_vdso", "the vdso can be placed (ARCH_MAP_VDSO_64)", true, test_map_vdso},
    {"sock_diag", "sockets can be listed (NETLINK_SOCK_DIAG)", true, test_net_diag},
    {"mnt_id", "mounts of open files are named (fdinfo mnt_id)", true, test_mnt_id},
    {"timerfd", "ticks of timerfd can be set (TFD_IOC_SET_TICKS)", true, test_timerfd},
    {"timer_cr_ids", "POSIX timers can be given an id (PR_TIMER_CREATE_RESTORE_IDS)", false, test_timer_ids},
    {"madv_guards", "guard regions (MADV_GUARD_INSTALL)", false, test_guards},
    {"seccomp_suspend", "seccomp can be suspended by a tracer", false, test_seccomp_suspend},
    {"seccomp_filters", "seccomp filters can be read", false, test_seccomp_filters},
    {"mem_dirty_track", "soft-dirty tracking of memory", false, test_mem_dirty_track},
    {"aio_remap", "rings of asynchronous I/O can be moved", false, test_aio_remap},
    {"tun", "TUN/TAP devices", false, test_tun},
    {"userns", "user namespaces", false, test_userns},
    {"cgroupns", "cgroup namespaces", false, test_cgroupns},
    {"timens", "time namespaces", false, test_timens},
    {"ns_pid", "pids in inner namespaces are named (NSpid)", false, test_ns_pid},
    {"fdinfo_lock", "locks of open files are named (fdinfo lock)", false, test_fdinfo_lock},
    {"loginuid", "login uids", false, test_loginuid},
    {"autofs", "autofs", false, test_autofs},
    {"tcp_half_closed", "TCP connections can be repaired (TCP_REPAIR)", false, test_tcp_repair},
    {"uffd", "userfaultfd", false, test_uffd},
    {"uffd-noncoop", "userfaultfd with events", false, test_uffd_noncoop},
    {"sk_ns", "the namespace of a socket can be opened (SIOCGSKNS)", false, test_sk_ns},
    {"sk_unix_file", "the file of a unix socket can be opened (SIOCUNIXFILE)", false, test_sk_unix_file},
    {"sockopt_buf_lock", "locks of socket buffers (SO_BUF_LOCK)", false, test_sockopt_buf_lock},
    {"memfd_hugetlb", "memfds of huge pages", false, test_memfd_hugetlb},
    {"openat2", "openat2", false, test_openat2},
    {"ipv6_freebind", "IPV6_FREEBIND", false, test_ipv6_freebind},
    {"apparmor_stacking", "stacked AppArmor profiles", false, test_apparmor_stacking},
};

const Probe *probe_table(size_t *ret_n) {
  *ret_n = sizeof probes / sizeof probes[0];
  return probes;
}

const Probe *probe_find(const char *name) {
  for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++)
    if (!strcmp(probes[i].name, name))
      return &probes[i];
  return NULL;
}
