/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process from another kernel. It has addresses in the vdso of that one, which fits neither this kernel's [vvar] pages nor
 * its own place any more. So it gets this kernel's vdso somewhere else, and at the old place the old one from the image, as
 * plain memory, with a jump to the present function over the beginning of each. Its [vvar] is a page of zeroes: to every
 * kernel's vdso that says that the clock cannot be read here, so code that stood in the middle of a function falls back to
 * the system call. A thread that stands in bytes that are a jump now goes on in an untouched copy. */
#include "image.h"
#include "present-vdso.h"
#include "stages.h"
#include "vdso.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ull
#define MAX_SIZE (1u << 20)

typedef struct OldVdso {
  const Task *task;
  bool ia32;
  guint64 start, size; /* of the object */
  guint64 vvar_start;  /* == start: none */
  unsigned char *object;
  off_t at, at_copy; /* of the object in the file, and of the untouched one */
} OldVdso;

struct ForeignVdso {
  PresentVdso present[2]; /* this kernel's, of 64-bit programs and of 32-bit ones */
  GArray *old;       /* OldVdso */
  guint64 copy_size; /* of the largest old one with its vvar */
  int fd;            /* what goes into the tasks */
};

static void old_clear(void *p) {
  g_free(((OldVdso *)p)->object);
}

void foreign_vdso_free(ForeignVdso *f) {
  if (!f)
    return;
  g_array_unref(f->old);
  present_vdso_clear(&f->present[0]);
  present_vdso_clear(&f->present[1]);
  if (f->fd >= 0)
    (void)close(f->fd);
  g_free(f);
}

static bool find_old(const Task *t, OldVdso *ret) {
  *ret = (OldVdso){.task = t, .ia32 = task_is_ia32(t)};
  for (size_t i = 0; t->mm && i < t->mm->n_vmas; i++) {
    const VmaEntry *v = t->mm->vmas[i];
    if (v->status & VMA_AREA_VDSO && !ret->size)
      ret->start = v->start, ret->size = v->end - v->start;
    if (v->status & VMA_AREA_VVAR && !ret->vvar_start)
      ret->vvar_start = v->start;
  }
  if (!ret->vvar_start || ret->vvar_start > ret->start)
    ret->vvar_start = ret->start;
  return ret->size;
}

/* The object stays NULL when the image does not have it. */
static bool read_object(Restore *r, OldVdso *old, GError **error) {
  guint64 offset;
  if (old->size > MAX_SIZE || old->start - old->vvar_start > MAX_SIZE)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "mm-%d.img: a vdso of %" G_GUINT64_FORMAT " bytes", (int)task_pid(old->task),
        old->size);
  if (!mm_find_pages(old->task->pages, old->start, old->size / PAGE, &offset))
    return true;
  int fd = image_open_pages(job_images_fd(r->job), old->task->pages->pages_id, error);
  if (fd < 0)
    return false;
  old->object = g_malloc(old->size);
  ssize_t n = pread(fd, old->object, old->size, (off_t)offset);
  int err = errno;
  (void)close(fd);
  return n == (ssize_t)old->size ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, n < 0 ? err : EIO, "Cannot read pages-%u.img", old->task->pages->pages_id);
}

static bool is_present(const PresentVdso *p, const OldVdso *old) {
  return p->size == old->size && p->vvar_size == old->start - old->vvar_start &&
         (!old->object || memcmp(old->object, p->object, p->size) == 0);
}

static bool look_at_task(Restore *r, ForeignVdso *f, const Task *t, GError **error) {
  OldVdso old;
  if (!find_old(t, &old))
    return true;
  bool ok = read_object(r, &old, error);
  const PresentVdso *present = &f->present[old.ia32];
  if (ok && is_present(present, &old)) {
    old_clear(&old);
    return true;
  }
  if (ok && (!old.object || !present->size))
    ok = engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "process %d has the vdso of another kernel, %s; restore it under the kernel it was checkpointed under", (int)task_pid(t),
        old.object ? "and this kernel has none" : "and its image does not have the bytes");
  if (!ok) {
    old_clear(&old);
    return false;
  }
  f->copy_size = MAX(f->copy_size, old.start + old.size - old.vvar_start);
  g_array_append_val(f->old, old);
  return true;
}

bool foreign_vdso_look(Restore *r, GError **error) {
  ForeignVdso *f = r->foreign_vdso = g_new0(ForeignVdso, 1);
  f->fd = -1;
  f->old = g_array_new(FALSE, FALSE, sizeof(OldVdso));
  g_array_set_clear_func(f->old, old_clear);
  bool ia32 = false;
  for (guint i = 0; i < r->checkpoint->tasks->len; i++)
    ia32 |= task_is_ia32(r->checkpoint->tasks->pdata[i]);
  if (!present_vdso_find(&f->present[0], error) || (ia32 && !present_vdso_find_ia32(&f->present[1], error)))
    return false;
  for (guint i = 0; i < r->checkpoint->tasks->len; i++)
    if (!look_at_task(r, f, r->checkpoint->tasks->pdata[i], error))
      return false;
  return true;
}

/* What the present one takes in front of the copies, of either kind. */
static guint64 present_room(const ForeignVdso *f) {
  return MAX(f->present[0].vvar_size + f->present[0].size, f->present[1].vvar_size + f->present[1].size);
}

guint64 foreign_vdso_room(const ForeignVdso *f) {
  return f->old->len ? present_room(f) + f->copy_size : 0;
}

static const OldVdso *old_of(const ForeignVdso *f, const Task *t) {
  for (guint i = 0; i < f->old->len; i++)
    if (g_array_index(f->old, OldVdso, i).task == t)
      return &g_array_index(f->old, OldVdso, i);
  return NULL;
}

bool foreign_vdso_has(const ForeignVdso *f, const Task *t) {
  return old_of(f, t);
}

static guint64 copy_at(const Restore *r) {
  return r->plan->behind_start + present_room(r->foreign_vdso);
}

static bool is_overwritten(const OldVdso *old, const GArray *patched, guint64 ip) {
  for (guint i = 0; i < patched->len; i++) {
    guint64 at = old->start + g_array_index(patched, guint32, i);
    if (ip > at && ip < at + VDSO_PATCH_SIZE(old->ia32))
      return true;
  }
  return false;
}

static void move_threads(const Restore *r, const OldVdso *old, const GArray *patched) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; t->task == old->task && k < t->threads->len; k++) {
      PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (is_overwritten(old, patched, th->thread->core->thread_info->gpregs->ip))
        th->ip_shift = copy_at(r) - old->vvar_start;
    }
  }
}

static bool put(int fd, const OldVdso *old, off_t at, GError **error) {
  return pwrite(fd, old->object, old->size, at) == (ssize_t)old->size ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot keep the vdso of process %d", (int)task_pid(old->task));
}

bool foreign_vdso_prepare(Restore *r, GError **error) {
  ForeignVdso *f = r->foreign_vdso;
  off_t at = 0;
  if (!f->old->len)
    return true;
  f->fd = memfd_create("vdso", MFD_CLOEXEC);
  if (f->fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "memfd_create");
  for (guint i = 0; i < f->old->len; i++) {
    OldVdso *old = &g_array_index(f->old, OldVdso, i);
    g_autoptr(GArray) patched = g_array_new(FALSE, FALSE, sizeof(guint32));
    old->at_copy = at;
    old->at = at + (off_t)old->size;
    at = old->at + (off_t)old->size;
    if (!put(f->fd, old, old->at_copy, error))
      return false;
    const PresentVdso *now = &f->present[old->ia32];
    vdso_redirect(old->object, old->size, old->start, now->object, now->size, r->plan->behind_start + now->vvar_size, patched);
    move_threads(r, old, patched);
    if (!put(f->fd, old, old->at, error))
      return false;
  }
  job_log(r->job, 4, "%u processes have the vdso of another kernel; their calls go to the present one", f->old->len);
  return true;
}

static void build_object(const Restore *r, const OldVdso *old, guint64 vvar_at, off_t from, Program *p) {
  guint64 at = vvar_at + (old->start - old->vvar_start);
  if (at > vvar_at) {
    PROGRAM_CALL(p, "mmap old vvar", SYS_mmap, ARG(vvar_at), ARG(at - vvar_at), ARG(PROT_READ),
        ARG(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE), ARG(-1), ARG(0));
    program_expect(p, EXPECT_EQUAL, (gint64)vvar_at);
  }
  PROGRAM_CALL(p, "mmap old vdso", SYS_mmap, ARG(at), ARG(old->size), ARG(PROT_READ | PROT_WRITE),
      ARG(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE), ARG(-1), ARG(0));
  program_expect(p, EXPECT_EQUAL, (gint64)at);
  PROGRAM_CALL(p, "pread64 old vdso", SYS_pread64, ARG(r->foreign_vdso->fd), ARG(at), ARG(old->size), ARG(from));
  program_expect(p, EXPECT_EQUAL, (gint64)old->size);
  PROGRAM_CALL(p, "mprotect old vdso", SYS_mprotect, ARG(at), ARG(old->size), ARG(PROT_READ | PROT_EXEC));
}

/* Does a thread go on in an untouched copy? */
static bool has_copy(const Restore *r, const PlanTask *owner) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *other = r->plan->tasks->pdata[i];
    for (guint k = 0; other->owner[SHARE_MEMORY] == owner && k < other->threads->len; k++)
      if (g_array_index(other->threads, PlanThread, k).ip_shift)
        return true;
  }
  return false;
}

guint foreign_vdso_spans(const Restore *r, const PlanTask *t, AddressSpan spans[static FOREIGN_VDSO_SPANS]) {
  const ForeignVdso *f = r->foreign_vdso;
  const OldVdso *old = old_of(f, t->task);
  if (!old)
    return 0;
  const PresentVdso *present = &f->present[old->ia32];
  spans[0].start = r->plan->behind_start;
  spans[0].end = spans[0].start + present->vvar_size + present->size;
  if (!has_copy(r, t->owner[SHARE_MEMORY]))
    return 1;
  spans[1].start = copy_at(r);
  spans[1].end = spans[1].start + (old->start - old->vvar_start) + old->size;
  return 2;
}

void foreign_vdso_build(const Restore *r, const PlanTask *t, Program *p) {
  const OldVdso *old = old_of(r->foreign_vdso, t->task);
  present_vdso_build(old->ia32, r->plan->behind_start, p);
  build_object(r, old, old->vvar_start, old->at, p);
  if (has_copy(r, t))
    build_object(r, old, copy_at(r), old->at_copy, p);
}
