/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Typed reading of /proc/PID (proc(5), Documentation/filesystems/proc.rst). */

#include "error.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads a whole file of /proc/PID ("stat", "task/12/status", …), NUL-terminated. @ret_size (may be NULL) gets its length.
 * NULL with NO_SUCH_PROCESS when the process is gone. g_free() it. */
char *proc_read(pid_t pid, const char *name, size_t *ret_size, GError **error);
/* The same in @folder, which is /proc/PID: for many files of one process. */
char *proc_read_at(int folder, pid_t pid, const char *name, size_t *ret_size, GError **error);
/* readlink(2) of /proc/PID/NAME; NULL with error. g_free() it. */
char *proc_readlink(pid_t pid, const char *name, GError **error);

typedef struct ProcStat {
  char comm[64];
  char state; /* R S D Z T t X */
  pid_t ppid, pgid, sid;
  int tty_nr;
  pid_t tpgid; /* foreground process group of the controlling terminal; -1: there is none */
  uint64_t flags; /* PF_* */
  uint64_t start_time; /* clock ticks since boot */
  unsigned n_threads; /* those that have ended but for their process included */
  uint64_t resident; /* pages */
  uint64_t start_code, end_code, start_stack, start_data, end_data, start_brk;
  uint64_t arg_start, arg_end, env_start, env_end;
  bool catches_sigsys;
  int exit_signal; /* what the parent gets when it ends */
  int exit_code; /* as wait(2) would give it: of a zombie, or of a stop (0: waited for) */
} ProcStat;

#define PROC_PF_IO_WORKER 0x00000010u
#define PROC_PF_USER_WORKER 0x00004000u
#define PROC_PF_KTHREAD 0x00200000u
#define PROC_PF_FORKNOEXEC 0x00000040u

/* Whether the thread is no more, or a zombie. */
bool proc_has_ended(pid_t tid);
bool proc_stat(pid_t pid, ProcStat *ret, GError **error);
/* Of a thread. */
bool proc_thread_stat(pid_t pid, pid_t tid, ProcStat *ret, GError **error);

typedef struct ProcStatus {
  uid_t uid[4]; /* real, effective, saved, fs */
  gid_t gid[4];
  unsigned umask;
  pid_t tracer;
  uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
  bool no_new_privs;
  int seccomp;
  unsigned fd_size; /* of the descriptor table: no number in use is as high */
  GArray *groups; /* gid_t, owned */
} ProcStatus;

/* Of a thread: /proc/PID/task/TID/status. proc_status_clear() afterwards. */
bool proc_status(pid_t pid, pid_t tid, ProcStatus *ret, GError **error);
void proc_status_clear(ProcStatus *status);

/* Appends the thread ids (pid_t), ascending. */
bool proc_threads(pid_t pid, GArray *tids, GError **error);
/* pidfd_open(2) of a thread, since Linux 6.9; -1 with errno where there is none (CHECKPOINTD_NO_THREAD_PIDFDS: anywhere). */
int proc_thread_pidfd(pid_t tid);
/* The kernel's own threads in a process (io_uring(7), KVM, vhost): no registers, no stops, and they end with their rings and machines. */
bool proc_is_kernel_worker(pid_t pid, pid_t tid);
/* Appends the children of every thread of @pid. */
bool proc_children(pid_t pid, GArray *tids, GArray *children, GError **error);
/* comm of a process into a buffer, "?" when it cannot be read. */
void proc_comm(pid_t pid, char comm[static 64]);

/* VmFlags of smaps, the ones that matter here */
enum {
  VMF_READ = 1 << 0, VMF_WRITE = 1 << 1, VMF_EXEC = 1 << 2, VMF_SHARED = 1 << 3, VMF_GROWSDOWN = 1 << 4,
  VMF_LOCKED = 1 << 5, VMF_LOCKONFAULT = 1 << 6, VMF_DONTCOPY = 1 << 7, VMF_DONTEXPAND = 1 << 8, VMF_NORESERVE = 1 << 9,
  VMF_HUGETLB = 1 << 10, VMF_DONTDUMP = 1 << 11, VMF_HUGEPAGE = 1 << 12, VMF_NOHUGEPAGE = 1 << 13, VMF_MERGEABLE = 1 << 14,
  VMF_WIPEONFORK = 1 << 15, VMF_IO = 1 << 16, VMF_PFNMAP = 1 << 17, VMF_MIXEDMAP = 1 << 18, VMF_MAYWRITE = 1 << 19,
  VMF_SEQ = 1 << 20, VMF_RAND = 1 << 21, VMF_UFFD_MISSING = 1 << 22, VMF_UFFD_WP = 1 << 23, VMF_SEALED = 1 << 24,
  VMF_SHADOW_STACK = 1 << 25, VMF_SYNC = 1 << 26, VMF_ACCOUNTABLE = 1 << 27, VMF_MAYREAD = 1 << 28, VMF_UFFD_MINOR = 1 << 29,
  VMF_DROPPABLE = 1 << 30,
};

typedef struct ProcVma {
  uint64_t start, end, offset;
  uint32_t flags; /* VMF_* */
  uint32_t dev_major, dev_minor;
  uint64_t inode;
  uint64_t page_kb; /* KernelPageSize */
  int pkey;
  bool foreign_ring; /* not from here: the AIO ring of a parent */
  char *path; /* "" for anonymous; owned by the list */
} ProcVma;

/* All mappings of a process from /proc/PID/smaps. */
GArray *proc_vmas(pid_t pid, GError **error);
/* From /proc/PID/maps, which is four times as quick: places and names, and nothing else. */
GArray *proc_maps(pid_t pid, GError **error);
