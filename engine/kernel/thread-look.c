/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "thread-look.h"
#include "kernel-types.h"
#include <string.h>
#include <unistd.h>

#define MOST 262144u /* threads: where a list has changed under our eyes it might have no end */
#define SS_AUTODISARM_ (1u << 31)
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
  int ptraced, ptrace_entry, pid, sas_sp, sas_size, sas_flags, tid_address, robust, pdeath, name, pending, flags, reset_on_fork;
  struct {
    guint32 at, size;
  } parts[G_N_ELEMENTS(compared)];
  guint n_parts;
};

static bool find_members(const KernelTypes *types, ThreadLook *l) {
  const struct {
    const char *name;
    int *at;
    guint32 size;
  } members[] = {{"ptraced", &l->ptraced, 16}, {"ptrace_entry", &l->ptrace_entry, 16}, {"pid", &l->pid, 4}, {"sas_ss_sp", &l->sas_sp, 8},
      {"sas_ss_size", &l->sas_size, 8}, {"sas_ss_flags", &l->sas_flags, 4}, {"clear_child_tid", &l->tid_address, 8},
      {"robust_list", &l->robust, 8}, {"pdeath_signal", &l->pdeath, 4}, {"comm", &l->name, 16}, {"pending.list", &l->pending, 16},
      {"flags", &l->flags, 4}, {"sched_reset_on_fork", &l->reset_on_fork, 1}};
  l->size = kernel_types_size(types, "task_struct");
  for (size_t i = 0; i < G_N_ELEMENTS(members); i++) {
    *members[i].at = kernel_types_offset(types, "task_struct", members[i].name);
    if (*members[i].at < 0 || (guint32)*members[i].at + members[i].size > l->size)
      return false;
  }
  return l->size <= KERNEL_READ_MAX;
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

/* Is what we find in our own what we know of ourselves? */
static bool knows_us(const ThreadLook *l) {
  g_autoptr(KernelReader) reader = kernel_reader_new();
  unsigned char task[KERNEL_READ_MAX];
  return reader && kernel_read(reader, kernel_reader_self(reader), task, l->size) && (pid_t)word(task, l->pid) == gettid();
}

ThreadLook *thread_look_new(void) {
  g_autoptr(KernelTypes) types = kernel_types_open();
  g_autoptr(ThreadLook) l = g_new0(ThreadLook, 1);
  return types && find_members(types, l) && find_parts(types, l) && knows_us(l) ? g_steal_pointer(&l) : NULL;
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
}

bool thread_look_at_traced(const ThreadLook *look, void (*see)(void *data, const ThreadSight *sight), void *data) {
  g_autoptr(KernelReader) reader = kernel_reader_new();
  unsigned char task[KERNEL_READ_MAX];
  guint64 self = reader ? kernel_reader_self(reader) : 0, head = self + (guint64)look->ptraced, at;
  if (!self || !kernel_read(reader, head, &at, sizeof at))
    return false;
  g_autofree unsigned char *traits = g_malloc(look->traits_size);
  for (guint n = 0; at != head; n++) {
    ThreadSight sight;
    guint64 one = at - (guint64)look->ptrace_entry;
    if (n == MOST || !kernel_read(reader, one, task, look->size))
      return false;
    take_sight(look, one, task, &sight);
    take_traits(look, task, traits);
    sight.traits = traits;
    see(data, &sight);
    at = address(task, look->ptrace_entry);
  }
  return true;
}
