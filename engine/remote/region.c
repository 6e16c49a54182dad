/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region.h"
#include "alive.h"
#include "proc.h"
#include "program-private.h"
#include "tracee.h"
#include "warden.h"
#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CODE_SIZE REGION_CODE_SIZE
#define REGION_WORDS_MAX 1000 /* the kernel marks 2,048 of a thread's at its end (ROBUST_LIST_LIMIT) */
#define FUTEX2_SHARED_U32 2 /* FUTEX2_SIZE_U32 of linux/futex.h */

struct Region {
  unsigned char *local;
  uint64_t remote;
  size_t size;
  _Atomic size_t used; /* several tracers prepare their agents at a time */
  _Atomic bool stopped; /* by job control, some of its threads have been: the others may stand, too */
  void *alive;      /* in the region: of the lanes that are added now */
  GPtrArray *words; /* all of them that are this process's, not the warden's */
};

static Region *region_make(void *local, uint64_t remote, size_t size) {
  Region *r = g_new0(Region, 1);
  r->local = local;
  r->remote = remote;
  r->size = size;
  memcpy(local, agent_start, (size_t)(agent_end - agent_start));
  r->alive = r->local + CODE_SIZE;
  r->used = CODE_SIZE + ALIVE_SIZE;
  return r;
}

static void take_word(Region *r) {
  if (!r->words)
    r->words = g_ptr_array_new();
  alive_take(r->alive);
  g_ptr_array_add(r->words, r->alive);
}

bool region_add_word(Region *r) {
  if (r->words->len == REGION_WORDS_MAX)
    return true;
  void *place = region_alloc(r, ALIVE_SIZE);
  if (!place)
    return false;
  r->alive = place;
  take_word(r);
  return true;
}

Region *region_new(void *local, uint64_t remote, size_t size) {
  Region *r = region_make(local, remote, size);
  take_word(r);
  return r;
}

Region *region_new_in(pid_t pid, size_t mapped, void *local, uint64_t remote, size_t size, GError **error) {
  if (!warden_is_active())
    return region_new(local, remote, size);
  Region *r = region_make(local, remote, size);
  int e = warden_own(pid, remote, mapped, REGION_CODE_SIZE);
  if (e == 0)
    return r;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: the warden cannot map the agents' region", (int)pid);
  region_free(r);
  return NULL;
}

void region_free(Region *r) {
  if (!r)
    return;
  for (guint i = 0; r->words && i < r->words->len; i++)
    alive_give(r->words->pdata[i]);
  g_clear_pointer(&r->words, g_ptr_array_unref);
  munmap(r->local, r->size);
  g_free(r);
}

uint32_t *region_alive(const Region *r) {
  return r->alive;
}

uint64_t region_remote(const Region *r) {
  return r->remote;
}

size_t region_size(const Region *r) {
  return r->size;
}

uint64_t region_agent(const Region *r) {
  return r->remote;
}

void *region_alloc(Region *r, size_t size) {
  size = (size + 63) & ~(size_t)63;
  size_t at = atomic_fetch_add(&r->used, size);
  if (at <= r->size && size <= r->size - at)
    return r->local + at;
  (void)atomic_fetch_sub(&r->used, size);
  return NULL;
}

uint64_t region_to_remote(const Region *r, const void *local) {
  return r->remote + (uint64_t)((const unsigned char *)local - r->local);
}

void *region_to_local(const Region *r, uint64_t remote) {
  return r->local + (remote - r->remote);
}

size_t region_mark(const Region *r) {
  return r->used;
}

void region_release(Region *r, size_t mark) {
  r->used = mark;
}

Lane *region_add_lane(Region *r) {
  Lane *lane = region_alloc(r, sizeof *lane);
  if (!lane)
    return NULL;
  memset(lane, 0, sizeof *lane);
  uint32_t alive = atomic_load((_Atomic uint32_t *)r->alive);
  lane->alive = region_to_remote(r, r->alive);
  lane->waitv[0] = (struct lane_waitv){0, region_to_remote(r, &lane->command), FUTEX2_SHARED_U32, 0};
  lane->waitv[1] = (struct lane_waitv){alive, lane->alive, FUTEX2_SHARED_U32, 0};
  return lane;
}

size_t region_program_size_shared(const Program *p) {
  return p->ops->len * sizeof(int64_t) + p->data->len + 3 * 64;
}

size_t region_program_size(const Program *p) {
  return p->ops->len * (sizeof(Op) + sizeof(int64_t)) + p->data->len + 3 * 64;
}

/* A word of the data is, to the agent, one more result: the data lie behind them. */
static void resolve_words(const LoadedProgram *l) {
  size_t first = (size_t)((const int64_t *)(const void *)l->data - l->results);
  for (guint i = 0; i < l->program->ops->len; i++)
    for (unsigned k = 0; k < 6; k++) {
      Op *op = &l->ops[i];
      if (((op->kinds >> (2 * k)) & 3) != ARG_KIND_WORD)
        continue;
      op->kinds ^= (uint16_t)((ARG_KIND_WORD ^ ARG_KIND_RESULT) << (2 * k));
      op->args[k] = first + op->args[k] / 8;
    }
}

bool region_load(Region *r, const Program *p, const Op *shared_ops, LoadedProgram *ret, GError **error) {
  LoadedProgram l = {.program = p, .ops = (Op *)(uintptr_t)shared_ops};
  if (!l.ops) {
    l.ops = region_alloc(r, p->ops->len * sizeof(Op));
    if (l.ops)
      memcpy(l.ops, p->ops->data, p->ops->len * sizeof(Op));
  }
  l.results = region_alloc(r, p->ops->len * sizeof(int64_t));
  l.data = region_alloc(r, MAX(p->data->len, 1));
  if (!l.ops || !l.results || !l.data)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "A program of %u system calls does not fit its region", p->ops->len);
  if (!shared_ops)
    resolve_words(&l);
  memset(l.results, 0, p->ops->len * sizeof(int64_t));
  if (p->data->len)
    memcpy(l.data, p->data->data, p->data->len);
  for (guint i = 0; i < p->pointers->len; i++) {
    uint64_t *at = (uint64_t *)(void *)(l.data + g_array_index(p->pointers, size_t, i));
    *at += region_to_remote(r, l.data);
  }
  *ret = l;
  return true;
}

void region_prepare(Region *r, Lane *lane, const LoadedProgram *loaded) {
  lane->ops = region_to_remote(r, loaded->ops);
  lane->n_ops = loaded->program->ops->len;
  lane->results = region_to_remote(r, loaded->results);
  lane->data = region_to_remote(r, loaded->data);
  lane->stopped = 0;
  atomic_thread_fence(memory_order_release);
  atomic_fetch_add((_Atomic uint32_t *)&lane->command, 1);
}

void region_start(Region *r, Lane *lane, const LoadedProgram *loaded) {
  region_prepare(r, lane, loaded);
  (void)syscall(SYS_futex, &lane->command, FUTEX_WAKE, 1, NULL, NULL, 0);
}

bool region_is_done(const Lane *lane) {
  return atomic_load((const _Atomic uint32_t *)&lane->done) == atomic_load((const _Atomic uint32_t *)&lane->command);
}

bool region_wait_moment(Region *r, Lane *lane, pid_t tid, bool *ret_done, GError **error) {
  uint32_t seen = atomic_load((const _Atomic uint32_t *)&lane->done);
  *ret_done = region_is_done(lane);
  if (!*ret_done) {
    struct timespec patience = {0, r->stopped ? 1000000 : 50000000};
    long w = syscall(SYS_futex, &lane->done, FUTEX_WAIT, seen, &patience, NULL, 0);
    *ret_done = region_is_done(lane);
    bool late = !*ret_done && w < 0 && errno == ETIMEDOUT && tid > 0;
    if (late && proc_has_ended(tid)) /* or was killed by somebody else: it will never finish its program */
      return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Task %d died meanwhile", (int)tid);
    if (late && tracee_pass_stop(tid)) /* job control, which no mask keeps out */
      r->stopped = true;
    if (atomic_load((const _Atomic uint32_t *)r->alive) & FUTEX_OWNER_DIED)
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The process that traces the tree was killed");
  }
  atomic_thread_fence(memory_order_acquire);
  return true;
}

bool region_wait(Region *r, Lane *lane, pid_t tid, GError **error) {
  for (bool done = false; !done;)
    if (!region_wait_moment(r, lane, tid, &done, error))
      return false;
  return true;
}

bool region_check(const Lane *lane, const LoadedProgram *loaded, const char *who, GError **error) {
  const Program *p = loaded->program;
  for (guint i = 0; i < p->ops->len; i++) {
    const OpInfo *info = &g_array_index(p->infos, OpInfo, i);
    int64_t result = loaded->results[i];
    bool failed = i >= lane->stopped;
    if (failed || (info->expect != EXPECT_ANY && result < 0 && result >= -4095))
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, (int)-result, "%s: %s", who, info->what);
    if (info->expect == EXPECT_EQUAL && result != info->value)
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED,
          "%s: %s gave 0x%" G_GINT64_MODIFIER "x instead of 0x%" G_GINT64_MODIFIER "x", who, info->what, result, info->value);
  }
  return true;
}
