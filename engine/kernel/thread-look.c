/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "thread-look.h"
#include "kernel-types.h"
#include "kernel-walk.h"
#include "proc.h"
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 262144u /* threads: where a list has changed under our eyes it might have no end */
#define SS_AUTODISARM_ (1u << 31)
#define REGS_SIZE 168 /* struct pt_regs: the first members of struct user_regs_struct, in their order */
#define PIDTYPE_TGID_ 1
/* Of task_struct.flags (PF_): what comes with use and is nobody's setting: forked and not executed, has used its privileges, has been
 * at its limit of processes, has used the floating-point unit. */
#define FLAGS_OF_USE (0x40u | 0x100u | 0x1000u | 0x2000u)

/* What threads are compared by: all that an agent asks its thread for (collect-thread.c, traits.c), or that says it cannot differ. The
 * optional ones are not there where the kernel was built without them. */
static const struct {
  const char *member;
  guint16 size;
  bool optional;
  const char *structure; /* of that size, if size is 0 */
} compared[] = {
    {"cred", 8, false, NULL}, /* ids, capabilities, secure bits, keyrings, Landlock: one and the same structure */
    {"real_cred", 8, false, NULL},
    {"files", 8, false, NULL},
    {"fs", 8, false, NULL},
    {"nsproxy", 8, false, NULL},
    {"sighand", 8, false, NULL},
    {"mm", 8, false, NULL},
    {"io_context", 8, true, NULL},   /* I/O priority */
    {"io_uring", 8, true, NULL},
    {"mempolicy", 8, true, NULL},
    {"atomic_flags", 8, false, NULL}, /* no_new_privs, speculation */
    {"thread_info.flags", 8, false, NULL}, /* prctl(PR_SET_TSC), CPUID faults */
    {"timer_slack_ns", 8, false, NULL},
    {"policy", 4, false, NULL},
    {"static_prio", 4, false, NULL},
    {"rt_priority", 4, false, NULL},
    {"dl.dl_runtime", 8, false, NULL},
    {"dl.dl_deadline", 8, false, NULL},
    {"dl.dl_period", 8, false, NULL},
    {"dl.flags", 4, false, NULL},
    {"cpus_mask", 0, false, "cpumask"},
    {"core_cookie", 8, true, NULL},
    {"uclamp_req", 8, true, NULL},
    {"seccomp", 0, true, "seccomp"},
    {"syscall_dispatch", 0, true, "syscall_user_dispatch"},
};

struct ThreadLook {
  guint32 size, traits_size; /* of a task_struct; of what is compared */
  int ptraced, ptrace_entry, pid, sas_sp, sas_size, sas_flags, tid_address, robust, pdeath, name, pending, flags, reset_on_fork, children;
  int work; /* at each system call: seccomp, dispatch, audit */
  /* From a pidfd to the threads of its process; stack 0: the way is not known. */
  int stack, state, tgid, signal, files, pid_links, thread_node;
  int thread_head, fdt, fd_table, file_private, file_inode, inode_private, pid_tasks, pid_numbers;
  guint64 regs_at; /* in a thread's stack */
  struct {
    guint32 at, size;
  } parts[G_N_ELEMENTS(compared)];
  guint n_parts;
};

typedef struct Member {
  const char *structure, *name;
  int *at;
} Member;

static bool find_all(const KernelTypes *types, const Member *members, size_t n) {
  for (size_t i = 0; i < n; i++) {
    *members[i].at = kernel_types_offset(types, members[i].structure, members[i].name);
    if (*members[i].at < 0)
      return false;
  }
  return true;
}

#define TASK "task_struct"

static bool find_members(const KernelTypes *types, ThreadLook *l) {
  const Member members[] = {{TASK, "ptraced", &l->ptraced}, {TASK, "ptrace_entry", &l->ptrace_entry}, {TASK, "pid", &l->pid},
      {TASK, "sas_ss_sp", &l->sas_sp}, {TASK, "sas_ss_size", &l->sas_size}, {TASK, "sas_ss_flags", &l->sas_flags},
      {TASK, "clear_child_tid", &l->tid_address}, {TASK, "robust_list", &l->robust}, {TASK, "pdeath_signal", &l->pdeath},
      {TASK, "comm", &l->name}, {TASK, "pending.list", &l->pending}, {TASK, "flags", &l->flags},
      {TASK, "sched_reset_on_fork", &l->reset_on_fork}, {TASK, "children", &l->children}, {TASK, "thread_info.syscall_work", &l->work}};
  l->size = kernel_types_size(types, TASK);
  return l->size && l->size <= KERNEL_READ_MAX && find_all(types, members, G_N_ELEMENTS(members));
}

static void find_way(const KernelTypes *types, ThreadLook *l) {
  const Member members[] = {{TASK, "__state", &l->state}, {TASK, "tgid", &l->tgid}, {TASK, "signal", &l->signal}, {TASK, "files", &l->files},
      {TASK, "pid_links", &l->pid_links}, {TASK, "thread_node", &l->thread_node}, {"signal_struct", "thread_head", &l->thread_head},
      {"files_struct", "fdt", &l->fdt}, {"fdtable", "fd", &l->fd_table}, {"file", "private_data", &l->file_private},
      {"file", "f_inode", &l->file_inode}, {"inode", "i_private", &l->inode_private}, {"pid", "tasks", &l->pid_tasks},
      {"pid", "numbers", &l->pid_numbers}, {TASK, "stack", &l->stack}};
  if (!find_all(types, members, G_N_ELEMENTS(members)))
    l->stack = 0;
}

static bool find_parts(const KernelTypes *types, ThreadLook *l) {
  l->traits_size = 4 + 1; /* flags, whether its policy is reset on fork */
  for (size_t i = 0; i < G_N_ELEMENTS(compared); i++) {
    int at = kernel_types_offset(types, "task_struct", compared[i].member);
    guint32 size = compared[i].size ? compared[i].size : kernel_types_size(types, compared[i].structure);
    if (at < 0 && compared[i].optional)
      continue;
    if (at < 0 || !size || (guint32)at + size > l->size)
      return false;
    l->parts[l->n_parts].at = (guint32)at;
    l->parts[l->n_parts++].size = size;
    l->traits_size += size;
  }
  return true;
}

static guint32 word(const unsigned char *task, int at) {
  guint32 v;
  memcpy(&v, task + at, sizeof v);
  return v;
}

static guint64 address(const unsigned char *task, int at) {
  guint64 v;
  memcpy(&v, task + at, sizeof v);
  return v;
}

/* The registers lie at the end of a thread's stack, whose size is nobody's to tell: ours must be those of the call that looks. */
static void find_regs(KernelReader *reader, const unsigned char *self, ThreadLook *l) {
  const guint32 sizes[] = {16384, 32768, 65536}, paddings[] = {0, 16};
  for (size_t i = 0; l->stack && i < G_N_ELEMENTS(sizes) * G_N_ELEMENTS(paddings); i++) {
    struct user_regs_struct regs;
    guint64 at = sizes[i / 2] - paddings[i % 2] - REGS_SIZE;
    if (kernel_read(reader, address(self, l->stack) + at, &regs, REGS_SIZE) && regs.orig_rax == SYS_bpf && regs.rdi == BPF_PROG_TEST_RUN &&
        (regs.cs & 3) == 3) {
      l->regs_at = at;
      return;
    }
  }
  l->stack = 0;
}

/* Is what we find in our own what we know of ourselves? */
static bool knows_us(ThreadLook *l) {
  g_autoptr(KernelReader) reader = kernel_reader_new();
  unsigned char task[KERNEL_READ_MAX];
  bool ok = reader && kernel_read(reader, kernel_reader_self(reader), task, l->size) && (pid_t)word(task, l->pid) == gettid();
  if (ok)
    find_regs(reader, task, l);
  return ok;
}

ThreadLook *thread_look_new(const KernelTypes *types) {
  g_autoptr(ThreadLook) l = g_new0(ThreadLook, 1);
  if (!find_members(types, l) || !find_parts(types, l))
    return NULL;
  find_way(types, l);
  return knows_us(l) ? g_steal_pointer(&l) : NULL;
}

void thread_look_free(ThreadLook *look) {
  g_free(look);
}

size_t thread_look_size(const ThreadLook *look) {
  return look->traits_size;
}

static void take_traits(const ThreadLook *l, const unsigned char *task, unsigned char *traits) {
  guint32 flags = word(task, l->flags) & ~FLAGS_OF_USE;
  memcpy(traits, &flags, sizeof flags);
  traits[4] = task[l->reset_on_fork] & 1;
  traits += 5;
  for (guint i = 0; i < l->n_parts; i++) {
    memcpy(traits, task + l->parts[i].at, l->parts[i].size);
    traits += l->parts[i].size;
  }
}

static void take_sight(const ThreadLook *l, guint64 at, const unsigned char *task, ThreadSight *s) {
  *s = (ThreadSight){.tid = (pid_t)word(task, l->pid)};
  s->sas_sp = address(task, l->sas_sp);
  s->sas_size = address(task, l->sas_size);
  s->sas_flags = word(task, l->sas_flags) & SS_AUTODISARM_;
  s->tid_address = address(task, l->tid_address);
  s->robust = address(task, l->robust);
  s->pdeath = word(task, l->pdeath);
  memcpy(s->name, task + l->name, sizeof s->name);
  s->pending = address(task, l->pending) != at + (guint64)l->pending; /* an empty list's head points to itself */
  s->parent = address(task, l->children) != at + (guint64)l->children;
  s->ruled = address(task, l->work) != 0;
}

bool thread_look_at_traced(const ThreadLook *look, bool (*see)(void *data, const ThreadSight *sight), void *data) {
  const KernelWalk walk = {.size = look->size, .link = look->ptrace_entry, .aside = -1};
  g_autoptr(KernelReader) reader = kernel_reader_new();
  g_autoptr(KernelWalker) walker = reader ? kernel_walker_new(&walk) : NULL;
  guint64 self = walker ? kernel_reader_self(reader) : 0;
  KernelPlace place = {.end = self + (guint64)look->ptraced};
  KernelRecord records[KERNEL_WALK_STEPS];
  if (!self || !kernel_read(reader, place.end, &place.at, sizeof place.at))
    return false;
  g_autofree unsigned char *traits = g_malloc(look->traits_size);
  int n;
  for (guint all = 0; (n = kernel_walker_step(walker, &place, records)) > 0; all += (guint)n) {
    for (int i = 0; i < n; i++) {
      ThreadSight sight;
      take_sight(look, records[i].address, records[i].data, &sight);
      take_traits(look, records[i].data, traits);
      sight.traits = traits;
      if (!see(data, &sight))
        return true;
    }
    if (all > MOST)
      return false;
  }
  return n == 0;
}

/* --- of a process that runs --- */

static bool read_word(KernelReader *r, guint64 at, guint64 *ret) {
  return kernel_read(r, at, ret, sizeof *ret);
}

/* The struct pid behind a pidfd: in the file, or, since pidfds have a file system of their own (6.9), in its inode. */
static bool find_pid(const ThreadLook *l, KernelReader *r, pid_t pid, int pidfd, guint64 *ret) {
  guint64 files, fdt, table, file, inode, candidates[2] = {0};
  guint32 number;
  if (!read_word(r, kernel_reader_self(r) + (guint64)l->files, &files) || !read_word(r, files + (guint64)l->fdt, &fdt) ||
      !read_word(r, fdt + (guint64)l->fd_table, &table) || !read_word(r, table + (guint64)pidfd * 8, &file) ||
      !read_word(r, file + (guint64)l->file_inode, &inode))
    return false;
  (void)read_word(r, inode + (guint64)l->inode_private, &candidates[0]);
  (void)read_word(r, file + (guint64)l->file_private, &candidates[1]);
  for (size_t i = 0; i < G_N_ELEMENTS(candidates); i++) {
    *ret = candidates[i];
    if (kernel_read(r, *ret + (guint64)l->pid_numbers, &number, sizeof number) && number == (guint32)pid)
      return true;
  }
  return false;
}

static bool read_leader(const ThreadLook *l, KernelReader *r, pid_t pid, int pidfd, unsigned char *task) {
  guint64 of, link;
  return find_pid(l, r, pid, pidfd, &of) && read_word(r, of + (guint64)l->pid_tasks + 8 * PIDTYPE_TGID_, &link) && link &&
         kernel_read(r, link - (guint64)l->pid_links - 16 * PIDTYPE_TGID_, task, l->size) && word(task, l->pid) == (guint32)pid &&
         word(task, l->tgid) == (guint32)pid;
}

static void take_glimpse(const ThreadLook *l, const KernelRecord *r, ThreadGlimpse *g) {
  const unsigned char *task = r->data;
  guint32 flags = word(task, l->flags);
  *g = (ThreadGlimpse){.tid = (pid_t)word(task, l->pid)};
  g->worker = g->tid != (pid_t)word(task, l->tgid) && memcmp(task + l->name, "iou-", 4) == 0 && flags & (PROC_PF_IO_WORKER | PROC_PF_USER_WORKER);
  g->runs = word(task, l->state) == 0;
  memcpy(&g->regs, r->aside, REGS_SIZE);
}

static gint compare_glimpses(gconstpointer a, gconstpointer b) {
  return ((const ThreadGlimpse *)a)->tid - ((const ThreadGlimpse *)b)->tid;
}

/* The list is walked without its lock: whoever is not of this process any more has left it under our eyes. */
bool thread_look_at_process(const ThreadLook *look, pid_t pid, int pidfd, GArray *ret) {
  const KernelWalk walk = {.size = look->size, .link = look->thread_node, .aside = look->stack, .aside_at = look->regs_at, .aside_size = REGS_SIZE};
  g_autoptr(KernelReader) reader = look->stack && pidfd >= 0 ? kernel_reader_new() : NULL;
  g_autoptr(KernelWalker) walker = reader ? kernel_walker_new(&walk) : NULL;
  unsigned char leader[KERNEL_READ_MAX];
  KernelRecord records[KERNEL_WALK_STEPS];
  if (!walker || !read_leader(look, reader, pid, pidfd, leader))
    return false;
  guint64 signal = address(leader, look->signal);
  KernelPlace place = {.end = signal + (guint64)look->thread_head};
  int n;
  if (!read_word(reader, place.end, &place.at))
    return false;
  while ((n = kernel_walker_step(walker, &place, records)) > 0 && ret->len < MOST)
    for (int i = 0; i < n; i++) {
      ThreadGlimpse g;
      if (address(records[i].data, look->signal) != signal || word(records[i].data, look->tgid) != (guint32)pid)
        return false;
      take_glimpse(look, &records[i], &g);
      g_array_append_val(ret, g);
    }
  if (n)
    return false;
  g_array_sort(ret, compare_glimpses);
  return true;
}
