/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "present-vdso.h"
#include "ia32.h"
#include "proc.h"
#include "tracee.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARCH_MAP_VDSO_32 0x2002
#define ARCH_MAP_VDSO_64 0x2003
#define SOMEWHERE_LOW 0x10000000ull
#define IA32_GETPID 20

static bool is_vdso(const ProcVma *v) {
  return g_str_has_prefix(v->path, "[vvar") || strcmp(v->path, "[vdso]") == 0;
}

/* *ret_start: of the object. */
static bool measure(pid_t pid, PresentVdso *ret, guint64 *ret_start, GError **error) {
  g_autoptr(GArray) vmas = proc_maps(pid, error);
  for (guint i = 0; vmas && i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    if (strcmp(v->path, "[vdso]") == 0)
      *ret_start = v->start, ret->size = v->end - v->start;
    else if (is_vdso(v))
      ret->vvar_size += v->end - v->start;
  }
  return vmas != NULL;
}

bool present_vdso_find(PresentVdso *ret, GError **error) {
  guint64 start = 0;
  *ret = (PresentVdso){.object = NULL};
  if (!measure(getpid(), ret, &start, error))
    return false;
  ret->object = g_memdup2((const void *)(uintptr_t)start, ret->size); /* NOLINT(performance-no-int-to-ptr) */
  return true;
}

static long call_ia32(long nr) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr) : "memory", "cc");
  return result;
}

/* A process is either kind's: the 64-bit one has to go first. No function of the C library may want it from then on. */
static _Noreturn void child_main(const GArray *vmas) {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)signal(SIGSEGV, SIG_DFL);
  for (guint i = 0; i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    if (is_vdso(v))
      (void)syscall(SYS_munmap, v->start, v->end - v->start);
  }
  long r = call_ia32(IA32_GETPID) > 0 ? syscall(SYS_arch_prctl, ARCH_MAP_VDSO_32, SOMEWHERE_LOW) : -1;
  if (r < 0)
    _exit(1);
  for (;;)
    (void)syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
}

/* False: it ended. */
static bool wait_child(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, WUNTRACED) < 0 && errno == EINTR)
    ;
  return WIFSTOPPED(status);
}

static bool take(pid_t child, PresentVdso *ret, GError **error) {
  guint64 start = 0;
  if (!measure(child, ret, &start, error) || !ret->size)
    return ret->size == 0 && !*error;
  g_autofree unsigned char *object = g_malloc(ret->size);
  int e = tracee_read(child, start, object, ret->size);
  if (e < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "Cannot read the vdso of 32-bit programs");
  ret->object = g_steal_pointer(&object);
  return true;
}

bool present_vdso_find_ia32(PresentVdso *ret, GError **error) {
  g_autoptr(GArray) vmas = proc_maps(getpid(), error);
  g_autoptr(GError) why = NULL;
  *ret = (PresentVdso){.object = NULL};
  if (!vmas)
    return false;
  pid_t child = fork();
  if (child == 0)
    child_main(vmas);
  if (child < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot fork");
  bool stopped = wait_child(child), ok = stopped && take(child, ret, &why);
  (void)kill(child, SIGKILL);
  while (stopped && waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  if (!stopped)
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE,
        "the checkpoint has 32-bit programs, and this kernel runs none, or cannot give them their vdso (it needs "
        "CONFIG_IA32_EMULATION and CONFIG_CHECKPOINT_RESTORE, and not ia32_emulation=0)");
  if (!ok)
    g_propagate_error(error, g_steal_pointer(&why));
  return ok;
}

void present_vdso_build(bool ia32, guint64 at, Program *p) {
  if (ia32)
    PROGRAM_CALL(p, "arch_prctl MAP_VDSO_32", SYS_arch_prctl, ARG(ARCH_MAP_VDSO_32), ARG(at));
  else
    PROGRAM_CALL(p, "arch_prctl MAP_VDSO_64", SYS_arch_prctl, ARG(ARCH_MAP_VDSO_64), ARG(at));
}

void present_vdso_clear(PresentVdso *p) {
  g_clear_pointer(&p->object, g_free);
}
