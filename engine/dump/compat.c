/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "compat.h"
#include "frame.h"
#include "ia32.h"
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#define X32_CALL 0x40000000u

static void block(Job *job, FrozenTask *task, pid_t tid, const char *reason, const char *cure) {
  g_autofree char *object = g_strdup_printf("pid %d (%s) thread %d", (int)task->pid, task->stat.comm, (int)tid);
  job_block(job, "task", task->pid, -1, object, reason, cure);
  task->refused_code = task->no_agent = true;
}

/* No 64-bit program is: its vdso and its stack, at least, lie further up. What tasks show of the old vsyscall page does not count. */
static bool lies_low(const FrozenTask *task) {
  const GArray *vmas = task->facts.vmas;
  for (guint i = vmas ? vmas->len : 0; i-- > 0;) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    if (v->start < 1ull << 63)
      return v->end <= IA32_ADDRESSES;
  }
  return false;
}

static bool runs_x32(const FrozenTask *task, const FrozenThread *t) {
  char path[64];
  Elf32_Ehdr header = {.e_type = ET_NONE};
  if ((gint64)t->state.regs.orig_rax >= 0 && t->state.regs.orig_rax & X32_CALL)
    return true;
  g_snprintf(path, sizeof path, "/proc/%d/exe", (int)task->pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : pread(fd, &header, sizeof header, 0);
  if (fd >= 0)
    (void)close(fd);
  return n == sizeof header && header.e_ident[EI_CLASS] == ELFCLASS32 && header.e_machine == EM_X86_64;
}

/* @beside: there are 32-bit programs in the tree, whose memory this may be. */
static void check_thread(Job *job, FrozenTask *task, const FrozenThread *t, bool low, bool beside) {
  guint64 cs = t->state.regs.cs;
  bool native = cs == USER_CS_64 || cs == USER_CS_64_XEN;
  if (native && low && runs_x32(task, t))
    block(job, task, t->state.tid, "it is an x32 program, which is not supported", "use a 64-bit build of the program");
  else if (native && low && beside)
    block(job, task, t->state.tid, "it is in 64-bit code of a 32-bit program, which is not supported",
        "checkpoint without it: use a 64-bit build of the program");
  else if (!native && cs != USER_CS_32)
    block(job, task, t->state.tid, "its code is in a segment of its own (modify_ldt(2)), which is not supported",
        "checkpoint without it: use a 64-bit build of the program");
  else if (!native && !low)
    block(job, task, t->state.tid, "it is in 32-bit code of a 64-bit program, which is not supported",
        "checkpoint without it: use a 64-bit build of the program");
}

void compat_check(Job *job, FrozenTree *tree) {
  bool any = false;
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; !task->ia32 && k < task->threads->len; k++)
      task->ia32 = frame_is_ia32(&g_array_index(task->threads, FrozenThread, k).state.regs) && lies_low(task);
    any |= task->ia32;
  }
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    bool low = !task->zombie && lies_low(task);
    for (guint k = 0; !task->zombie && k < task->threads->len; k++)
      check_thread(job, task, &g_array_index(task->threads, FrozenThread, k), low, any);
  }
}
