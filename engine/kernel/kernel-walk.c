/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernel-walk.h"
#include "kernel-bpf.h"
#include "kernel-types.h"
#include <sys/mman.h>

/* What engine and program share: a map of one value that is mapped here. */
typedef struct Window {
  guint64 at, end;
  gint64 n; /* -1: one could not be read */
  guint64 addresses[KERNEL_WALK_STEPS];
  unsigned char data[KERNEL_WALK_STEPS][KERNEL_READ_MAX];
  unsigned char asides[KERNEL_WALK_STEPS][KERNEL_WALK_ASIDE];
} Window;

struct KernelWalker {
  int map, program;
  Window *window;
};

#define STEP_INSNS 32
#define MAX_INSNS (STEP_INSNS * KERNEL_WALK_STEPS + 16)
enum { WINDOW = BPF_REG_6, AT, END, RECORD }; /* kept by calls */

typedef struct Code {
  struct bpf_insn insns[MAX_INSNS];
  size_t n;
  size_t fails[2 * KERNEL_WALK_STEPS], ends[KERNEL_WALK_STEPS]; /* jumps whose aim is not known yet */
  size_t n_fails, n_ends;
} Code;

static void put(Code *c, struct bpf_insn i) {
  c->insns[c->n++] = i;
}

/* Of what register 3 points to, to where register 1 does. */
static void put_read(Code *c, guint32 size) {
  put(c, SET(BPF_REG_2, size));
  put(c, CALL(BPF_FUNC_probe_read_kernel));
  c->fails[c->n_fails++] = c->n;
  put(c, INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 0, 0));
}

static void put_step(Code *c, const KernelWalk *walk, guint i) {
  c->ends[c->n_ends++] = c->n;
  put(c, INSN(BPF_JMP | BPF_JEQ | BPF_X, AT, END, 0, 0));
  put(c, MOVE(RECORD, WINDOW));
  put(c, ADD(RECORD, offsetof(Window, data) + i * KERNEL_READ_MAX));
  put(c, MOVE(BPF_REG_3, AT));
  put(c, ADD(BPF_REG_3, -walk->link));
  put(c, STORE(WINDOW, BPF_REG_3, offsetof(Window, addresses) + 8 * i));
  put(c, MOVE(BPF_REG_1, RECORD));
  put_read(c, walk->size);
  put(c, LOAD(AT, RECORD, walk->link));
  if (walk->aside >= 0) {
    put(c, LOAD(BPF_REG_3, RECORD, walk->aside));
    put(c, ADD(BPF_REG_3, walk->aside_at));
    put(c, MOVE(BPF_REG_1, WINDOW));
    put(c, ADD(BPF_REG_1, offsetof(Window, asides) + i * KERNEL_WALK_ASIDE));
    put_read(c, walk->aside_size);
  }
  put(c, SET(BPF_REG_1, i + 1));
  put(c, STORE(WINDOW, BPF_REG_1, offsetof(Window, n)));
}

static void aim(Code *c, const size_t *jumps, size_t n) {
  for (size_t i = 0; i < n; i++)
    c->insns[jumps[i]].off = (short)(c->n - jumps[i] - 1);
}

static void put_end(Code *c) {
  put(c, SET(BPF_REG_0, 0));
  put(c, EXIT());
}

static int load_program(int map, const KernelWalk *walk) {
  Code c = {.n = 0};
  put(&c, INSN(BPF_LD | BPF_IMM | BPF_DW, WINDOW, BPF_PSEUDO_MAP_VALUE, 0, map));
  put(&c, INSN(0, 0, 0, 0, 0));
  put(&c, LOAD(AT, WINDOW, offsetof(Window, at)));
  put(&c, LOAD(END, WINDOW, offsetof(Window, end)));
  for (guint i = 0; i < KERNEL_WALK_STEPS; i++)
    put_step(&c, walk, i);
  aim(&c, c.ends, c.n_ends);
  put(&c, STORE(WINDOW, AT, offsetof(Window, at)));
  put_end(&c);
  aim(&c, c.fails, c.n_fails);
  put(&c, SET(BPF_REG_1, -1));
  put(&c, STORE(WINDOW, BPF_REG_1, offsetof(Window, n)));
  put_end(&c);
  return bpf_load(c.insns, c.n);
}

KernelWalker *kernel_walker_new(const KernelWalk *walk) {
  g_autoptr(KernelWalker) w = g_new0(KernelWalker, 1);
  w->program = -1;
  w->map = bpf_shared_map(sizeof(Window));
  void *m = w->map < 0 ? MAP_FAILED : mmap(NULL, sizeof(Window), PROT_READ | PROT_WRITE, MAP_SHARED, w->map, 0);
  if (m == MAP_FAILED)
    return NULL;
  w->window = m;
  w->program = load_program(w->map, walk);
  return w->program < 0 ? NULL : g_steal_pointer(&w);
}

void kernel_walker_free(KernelWalker *w) {
  if (!w)
    return;
  if (w->window)
    (void)munmap(w->window, sizeof *w->window);
  if (w->program >= 0)
    (void)close(w->program);
  if (w->map >= 0)
    (void)close(w->map);
  g_free(w);
}

int kernel_walker_step(KernelWalker *w, KernelPlace *place, KernelRecord ret[static KERNEL_WALK_STEPS]) {
  Window *win = w->window;
  win->at = place->at;
  win->end = place->end;
  win->n = 0;
  if (!bpf_run(w->program))
    return -1;
  gint64 n = __atomic_load_n(&win->n, __ATOMIC_ACQUIRE);
  for (gint64 i = 0; i < n; i++)
    ret[i] = (KernelRecord){win->addresses[i], win->data[i], win->asides[i]};
  place->at = win->at;
  return (int)n;
}
