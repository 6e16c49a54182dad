/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "inject.h"
#include "frame.h"
#include "tracee.h"
#include "warden.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ull
#define SCAN_LIMIT (16u << 20) /* of code, per mapping */

struct GadgetCache {
  GHashTable *files; /* GadgetKey -> GadgetPlace */
};

typedef struct GadgetKey {
  uint64_t dev, inode, offset, ia32;
} GadgetKey;

typedef struct GadgetPlace {
  size_t syscall, sigreturn; /* offsets into the mapping, SIZE_MAX: none */
} GadgetPlace;

struct Injection {
  pid_t pid;
  Region *region;
  Lane *leader_lane;
  uint64_t syscall_ret, sigreturn, leader_frame;
  bool ia32; /* a 32-bit program */
  unsigned pops; /* words that its code pops after a system call */
  bool split; /* the region: its code cannot be written by the process, the rest not run */
  size_t size, n_threads; /* of the region; of the process */
  int64_t address;        /* of the region, once it is mapped */
  bool begun;             /* it is being mapped */
};

static guint gadget_key_hash(gconstpointer p) {
  const GadgetKey *k = p;
  return (guint)(k->inode * 31 + k->dev * 7 + k->offset);
}

static gboolean gadget_key_equal(gconstpointer a, gconstpointer b) {
  return memcmp(a, b, sizeof(GadgetKey)) == 0;
}

GadgetCache *gadget_cache_new(void) {
  GadgetCache *c = g_new0(GadgetCache, 1);
  c->files = g_hash_table_new_full(gadget_key_hash, gadget_key_equal, g_free, g_free);
  return c;
}

void gadget_cache_free(GadgetCache *c) {
  if (!c)
    return;
  g_hash_table_unref(c->files);
  g_free(c);
}

static GadgetPlace scan_code(pid_t pid, const InjectMap *map, bool ia32) {
  GadgetPlace place = {SIZE_MAX, SIZE_MAX};
  size_t size = MIN(map->end - map->start, (uint64_t)SCAN_LIMIT), step = 256 << 10, overlap = 16;
  g_autofree unsigned char *code = g_malloc(step + overlap);
  for (size_t at = 0; at < size && (place.syscall == SIZE_MAX || place.sigreturn == SIZE_MAX); at += step) {
    size_t n = MIN(size - at, step + overlap), s, r;
    if (tracee_read(pid, map->start + at, code, n) < 0)
      break;
    frame_find_gadgets(code, n, ia32, &s, &r);
    if (place.syscall == SIZE_MAX && s != SIZE_MAX)
      place.syscall = at + s;
    if (place.sigreturn == SIZE_MAX && r != SIZE_MAX)
      place.sigreturn = at + r;
  }
  return place;
}

/* A cached place is only believed after a look at the bytes: the mapping may have been modified. */
static bool place_holds(pid_t pid, const InjectMap *map, const GadgetPlace *place, bool ia32) {
  unsigned char code[16];
  size_t s, r;
  if (place->syscall != SIZE_MAX) {
    size_t n = MIN(FRAME_CALL_SIZE, map->end - map->start - place->syscall);
    if (tracee_read(pid, map->start + place->syscall, code, n) < 0)
      return false;
    frame_find_gadgets(code, n, ia32, &s, &r);
    if (s != 0)
      return false;
  }
  if (place->sigreturn != SIZE_MAX) {
    size_t n = MIN(FRAME_SIGRETURN_SIZE, map->end - map->start - place->sigreturn);
    if (tracee_read(pid, map->start + place->sigreturn, code, n) < 0)
      return false;
    frame_find_gadgets(code, n, ia32, &s, &r);
    if (r != 0)
      return false;
  }
  return true;
}

static GadgetPlace find_place(pid_t pid, const InjectMap *map, bool ia32, GadgetCache *cache) {
  GadgetKey key = {map->dev, map->inode, map->offset, ia32};
  GadgetPlace *known = map->inode ? g_hash_table_lookup(cache->files, &key) : NULL;
  if (known && place_holds(pid, map, known, ia32))
    return *known;
  GadgetPlace place = scan_code(pid, map, ia32);
  if (map->inode)
    g_hash_table_replace(cache->files, g_memdup2(&key, sizeof key), g_memdup2(&place, sizeof place));
  return place;
}

static bool count_pops(Injection *in, GError **error) {
  unsigned char call[FRAME_CALL_SIZE] = {0};
  size_t n = MIN(sizeof call, PAGE - (in->syscall_ret & (PAGE - 1))); /* the rest may be no memory */
  int e = tracee_read(in->pid, in->syscall_ret, call, sizeof call) < 0 ? tracee_read(in->pid, in->syscall_ret, call, n) : 0;
  in->pops = frame_count_pops(call);
  return e == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: cannot read its code", (int)in->pid);
}

/* libc first: it always has both. */
static bool find_gadgets(Injection *in, const InjectMap *maps, size_t n, GadgetCache *cache, GError **error) {
  for (int pass = 0; pass < 2; pass++)
    for (size_t i = 0; i < n; i++) {
      const InjectMap *m = &maps[i];
      bool libc = m->path && strstr(m->path, "libc");
      if (!m->executable || libc != (pass == 0) || (m->path && g_str_has_prefix(m->path, "[vsyscall]")))
        continue;
      GadgetPlace p = find_place(in->pid, m, in->ia32, cache);
      if (!in->syscall_ret && p.syscall != SIZE_MAX)
        in->syscall_ret = m->start + p.syscall;
      if (!in->sigreturn && p.sigreturn != SIZE_MAX)
        in->sigreturn = m->start + p.sigreturn;
      if (in->syscall_ret && in->sigreturn)
        return !in->ia32 || count_pops(in, error);
    }
  struct user_regs_struct regs;
  if (tracee_get_regs(in->pid, &regs) == -ESRCH)
    return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "pid %d has just ended", (int)in->pid);
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "pid %d: its code has no signal return (no C library?), so that it could not be sent back if the engine died", (int)in->pid);
}

/* The highest address below which a frame may stand. On the process's own stack that is the red zone's end; a thread that
 * stands elsewhere (a coroutine, a goroutine, an alternate stack) may have no room there, so the never used end of the
 * process's stack is taken. */
static bool find_frame_top(const StoppedThread *leader, size_t size, const InjectMap *maps, size_t n, uint64_t *ret, GError **error) {
  for (size_t i = 0; i < n; i++) {
    const InjectMap *m = &maps[i];
    if (!m->stack)
      continue;
    if (leader->regs.rsp > m->start + size + PAGE && leader->regs.rsp <= m->end) {
      *ret = leader->regs.rsp;
      return true;
    }
    if (m->end - m->start >= size + 4 * PAGE) {
      *ret = m->start + size + PAGE;
      return true;
    }
  }
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "pid %d: its stack has no room for a signal frame of %zu bytes",
      (int)leader->tid, size);
}

/* Of frame_size() bytes; *ret_at: where it belongs. */
static void *make_leader_frame(
    const StoppedThread *leader, uint64_t sigreturn, unsigned pops, const InjectMap *maps, size_t n, uint64_t *ret_at, size_t *ret_size,
    GError **error) {
  size_t size = frame_size(leader->xstate_size);
  uint64_t top = 0;
  if (!find_frame_top(leader, size + 128, maps, n, &top, error))
    return NULL;
  void *buffer = g_malloc(size);
  FrameState state = {&leader->regs, leader->xstate, leader->xstate_size, leader->sigmask};
  *ret_at = frame_build(&state, top, sigreturn, pops, buffer, ret_size);
  return buffer;
}

static bool write_leader_frame(Injection *in, const StoppedThread *leader, const InjectMap *maps, size_t n, GError **error) {
  size_t size = 0;
  g_autofree void *frame = make_leader_frame(leader, in->sigreturn, in->pops, maps, n, &in->leader_frame, &size, error);
  int r = frame ? tracee_write(in->pid, in->leader_frame, frame, size) : 0;
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "pid %d: cannot write to its stack", (int)in->pid);
  return frame != NULL;
}

uint64_t inject_leader_frame(const StoppedThread *leader, const InjectMap *maps, size_t n_maps) {
  uint64_t at = 0;
  size_t size = 0;
  g_free(make_leader_frame(leader, 0, 0, maps, n_maps, &at, &size, NULL));
  return at;
}

static struct user_regs_struct borrowed_regs(const Injection *in, const struct user_regs_struct *base, long nr, const uint64_t args[static 6]) {
  struct user_regs_struct r = *base;
  frame_set_call(&r, nr, args);
  r.rip = in->syscall_ret;
  r.rsp = in->leader_frame;
  return r;
}

static int borrow_syscall(Injection *in, const struct user_regs_struct *base, long nr, const uint64_t args[static 6], int64_t *ret) {
  struct user_regs_struct r = borrowed_regs(in, base, nr, args);
  int e = tracee_run(in->pid, &r, 2, false);
  if (e == 0)
    *ret = (int64_t)r.rax;
  return e;
}

/* Mask first: if the coordinator dies in between, the thread still goes home by its frame. */
static int restore_thread(const StoppedThread *t) {
  int e = tracee_set_sigmask(t->tid, t->sigmask);
  return e < 0 ? e : tracee_set_regs(t->tid, &t->regs);
}

/* What keeps a process from getting a mapping more. */
static bool fail_region(pid_t pid, size_t size, int e, GError **error) {
  const char *cure = "";
  if (e == -ENOMEM)
    cure = ": it has as many mappings as vm.max_map_count allows, reaches its limit of address space (RLIMIT_AS), or no memory may "
           "be promised any more (vm.overcommit_memory); raise what is too low (prlimit(1), sysctl(8)) and try again";
  else if (e == -EAGAIN)
    cure = ": it has all future mappings locked (mlockall(2)) and reaches its limit of locked memory (RLIMIT_MEMLOCK); raise that "
           "(prlimit(1)) and try again";
  return engine_fail(error, e == -ESRCH ? ENGINE_ERROR_CODE__NO_SUCH_PROCESS : ENGINE_ERROR_CODE__FAILED,
      "pid %d: cannot map %zu bytes in it: %s%s", (int)pid, size, strerror(-e), cure);
}

static void *map_region(pid_t pid, uint64_t address, size_t size, bool split, GError **error) {
  char path[96];
  g_snprintf(path, sizeof path, "/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", (int)pid, address,
      address + (split ? REGION_CODE_SIZE : size));
  int fd = open(path, O_RDWR | O_CLOEXEC);
  void *p = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  int err = errno;
  if (fd >= 0)
    (void)close(fd);
  if (p != MAP_FAILED)
    return p;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot map %s", path);
  return NULL;
}

static void set_home(Injection *in, Lane *lane, uint64_t frame, long nr, uint64_t arg0, uint64_t arg1) {
  lane->home = LANE_HOME_GO;
  lane->home_sp = frame;
  lane->home_ip = in->syscall_ret;
  lane->home_nr = (uint64_t)(in->ia32 ? frame_ia32_number(nr) : nr);
  lane->home_args[0] = arg0;
  lane->home_args[1] = arg1;
}

/* The agent has no use for a stack, but whoever comes next may find the thread there: a task stopped by job control stays
 * in the agent when the engine dies, and goes home when it is continued. Its frame must lie above its stack pointer. */
static int enter_agent(Injection *in, const StoppedThread *t, Lane *lane) {
  struct user_regs_struct r = t->regs;
  r.rsp = lane->home_sp;
  r.rbx = region_to_remote(in->region, lane);
  r.rip = region_agent(in->region);
  r.cs = in->ia32 ? USER_CS_64 : r.cs;
  r.orig_rax = (uint64_t)-1;
  r.eflags &= ~0x100ull;
  return tracee_run(t->tid, &r, t->group_stop ? 1 : 0, true); /* the stop is one of the agent's */
}

/* The warden, if there is one, has to know before anything is borrowed. @size 0: nothing is to be unmapped. */
static int tell_home(const Injection *in, const StoppedThread *t, uint64_t address, size_t size) {
  TraceHome home = {.tid = t->tid, .regs = t->regs, .sigmask = t->sigmask};
  home.calls = size != 0;
  home.call = t->regs;
  frame_set_call(&home.call, SYS_munmap, (uint64_t[6]){address, size});
  home.call.rip = in->syscall_ret, home.call.rsp = in->leader_frame;
  return tracee_home(&home);
}

static bool take_region(Injection *in, GError **error) {
  uint64_t address = (uint64_t)in->address;
  void *local = map_region(in->pid, address, in->size, in->split, error);
  if (!local)
    return false;
  in->region = region_new_in(in->pid, in->split ? REGION_CODE_SIZE : in->size, local, address, in->size, error);
  if (!in->region)
    return false;
  in->leader_lane = region_add_lane(in->region);
  if (in->n_threads == 1)
    set_home(in, in->leader_lane, in->leader_frame, SYS_munmap, address, in->size);
  else
    set_home(in, in->leader_lane, in->leader_frame, SYS_getpid, 0, 0);
  return true;
}

static void set_region_call(const Injection *in, uint64_t at, uint64_t args[static 6]) {
  const uint64_t a[6] = {at, in->size, PROT_READ | PROT_EXEC | (in->split ? 0 : PROT_WRITE),
      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, (uint64_t)-1, 0};
  memcpy(args, a, sizeof a);
}

static int end_region(const Injection *in, int64_t *ret) {
  struct user_regs_struct r;
  int e = tracee_call_end(in->pid, &r);
  if (e == 0)
    *ret = (int64_t)r.rax;
  return e;
}

/* Code that can be written is refused to a process under PR_SET_MDWE: then what is written to is no code. Sets in->address
 * to what is mapped even where the rest fails. */
static int borrow_region(Injection *in, const StoppedThread *leader, uint64_t at) {
  uint64_t args[6];
  int64_t address = 0, result = 0;
  set_region_call(in, at, args);
  int e = in->begun ? end_region(in, &address) : borrow_syscall(in, &leader->regs, SYS_mmap, args, &address);
  in->begun = false;
  if (e == 0 && address == -EACCES) {
    in->split = true;
    set_region_call(in, at, args);
    e = borrow_syscall(in, &leader->regs, SYS_mmap, args, &address);
  }
  if (e < 0 || address <= 0)
    return e < 0 ? e : (int)address;
  in->address = address;
  uint64_t protect[6] = {(uint64_t)address + REGION_CODE_SIZE, in->size - REGION_CODE_SIZE, PROT_READ | PROT_WRITE};
  if (in->split)
    e = borrow_syscall(in, &leader->regs, SYS_mprotect, protect, &result);
  return e < 0 ? e : (int)result;
}

Injection *inject_begin(const StoppedThread *leader, size_t n_threads, uint64_t at, size_t room, const InjectMap *maps, size_t n_maps,
    GadgetCache *cache, GError **error) {
  Injection *in = g_new0(Injection, 1);
  in->pid = leader->tid;
  in->n_threads = n_threads;
  in->size = (room + 4 * PAGE + PAGE - 1) & ~(size_t)(PAGE - 1);
  in->ia32 = frame_is_ia32(&leader->regs);
  if (!find_gadgets(in, maps, n_maps, cache, error) || !write_leader_frame(in, leader, maps, n_maps, error)) {
    injection_free(in);
    return NULL;
  }
  int e = tell_home(in, leader, at, at ? in->size : 0);
  if (e == 0 && !warden_is_active()) {
    uint64_t args[6];
    set_region_call(in, at, args);
    struct user_regs_struct r = borrowed_regs(in, &leader->regs, SYS_mmap, args);
    e = tracee_call_begin(in->pid, &r);
    in->begun = e == 0;
  }
  if (e == 0)
    return in;
  (void)fail_region(in->pid, in->size, e, error);
  (void)restore_thread(leader);
  injection_free(in);
  return NULL;
}

bool inject_proceed(Injection *in, const StoppedThread *leader, GError **error) {
  int e = in->begun ? tracee_call_proceed(in->pid) : 0;
  if (e == 0)
    return true;
  in->begun = false;
  (void)restore_thread(leader);
  return fail_region(in->pid, in->size, e, error);
}

void inject_undo(Injection *in, const StoppedThread *leader) {
  int64_t ignored;
  uint64_t undo[6] = {(uint64_t)in->address, in->size};
  if (in->address > 0)
    (void)borrow_syscall(in, &leader->regs, SYS_munmap, undo, &ignored);
  (void)restore_thread(leader);
}

bool inject_finish(Injection *in, const StoppedThread *leader, uint64_t at, GError **error) {
  int e = borrow_region(in, leader, at);
  if (e == 0 && (uint64_t)in->address != at)
    e = tell_home(in, leader, (uint64_t)in->address, in->size);
  if (e == 0 && take_region(in, error))
    return true;
  if (e < 0)
    (void)fail_region(in->pid, in->size, e, error);
  inject_undo(in, leader);
  return false;
}

bool inject_leader(Injection *in, const StoppedThread *leader, GError **error) {
  int e = enter_agent(in, leader, in->leader_lane);
  if (e == 0)
    return true;
  inject_undo(in, leader);
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: cannot start the agent", (int)in->pid);
}

size_t inject_thread_room(size_t xstate_size) {
  return sizeof(Lane) + frame_size(xstate_size) + 512;
}

Lane *inject_add_lane(Injection *in, const StoppedThread *t, GError **error) {
  Lane *lane = region_add_lane(in->region);
  size_t size = frame_size(t->xstate_size) + 256;
  unsigned char *place = lane ? region_alloc(in->region, size) : NULL;
  if (!place) {
    engine_fail(error, ENGINE_ERROR_CODE__FAILED, "pid %d: the region is too small for its threads", (int)in->pid);
    return NULL;
  }
  FrameState state = {&t->regs, t->xstate, t->xstate_size, t->sigmask};
  uint64_t base = region_to_remote(in->region, place);
  g_autofree unsigned char *buffer = g_malloc(size);
  uint64_t frame = frame_build(&state, base + size, in->sigreturn, in->pops, buffer, &size);
  memcpy(place + (frame - base), buffer, size);
  set_home(in, lane, frame, SYS_getpid, 0, 0);
  return lane;
}

bool inject_thread(Injection *in, const StoppedThread *t, Lane *lane, GError **error) {
  int e = tell_home(in, t, 0, 0);
  if (e == 0)
    e = enter_agent(in, t, lane);
  if (e == 0)
    return true;
  (void)restore_thread(t);
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "tid %d: cannot start the agent", (int)t->tid);
}

Region *injection_region(Injection *in) {
  return in->region;
}

uint64_t injection_syscall(const Injection *in) {
  return in->syscall_ret;
}

Lane *injection_leader_lane(Injection *in) {
  return in->leader_lane;
}

bool inject_cure_thread(Injection *in, const StoppedThread *t, GError **error) {
  int e = tracee_interrupt(t->tid);
  if (e == 0)
    e = restore_thread(t);
  if (e < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "tid %d: cannot take the agent out", (int)t->tid);
  return true;
}

bool inject_cure_leader(Injection *in, const StoppedThread *leader, GError **error) {
  int64_t result = 0;
  uint64_t args[6] = {region_remote(in->region), region_size(in->region)};
  int e = tracee_interrupt(leader->tid);
  if (e == 0)
    e = borrow_syscall(in, &leader->regs, SYS_munmap, args, &result);
  int e2 = restore_thread(leader);
  if (e < 0 || e2 < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e < 0 ? e : e2, "pid %d: cannot take the agent out", (int)in->pid);
  return true;
}

bool inject_unmap(const StoppedThread *leader, const InjectMap *maps, size_t n_maps, uint64_t address, size_t size, GError **error) {
  Injection in = {.pid = leader->tid, .ia32 = frame_is_ia32(&leader->regs)};
  GadgetCache *cache = gadget_cache_new();
  int64_t result = 0;
  bool ok = find_gadgets(&in, maps, n_maps, cache, error) && write_leader_frame(&in, leader, maps, n_maps, error);
  gadget_cache_free(cache);
  if (!ok)
    return false;
  uint64_t args[6] = {address, size};
  int e = borrow_syscall(&in, &leader->regs, SYS_munmap, args, &result);
  int e2 = restore_thread(leader);
  e = e < 0 ? e : result < 0 ? (int)result : e2;
  return e < 0 ? engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: cannot unmap", (int)in.pid) : true;
}

void injection_free(Injection *in) {
  if (!in)
    return;
  region_free(in->region);
  g_free(in);
}
