/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernel-bpf.h"
#include "kernel-types.h"
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What engine and program share: a map of one value that is mapped here. */
typedef struct Window {
  guint64 address, size;
  gint64 result;
  guint64 self;
  unsigned char data[KERNEL_READ_MAX];
} Window;

struct KernelReader {
  int map, program;
  Window *window;
};

static int load_program(int map) {
  const struct bpf_insn code[] = {
      INSN(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_6, BPF_PSEUDO_MAP_VALUE, 0, map),
      INSN(0, 0, 0, 0, 0),
      CALL(BPF_FUNC_get_current_task),
      STORE(BPF_REG_6, BPF_REG_0, offsetof(Window, self)),
      LOAD(BPF_REG_3, BPF_REG_6, offsetof(Window, address)),
      LOAD(BPF_REG_2, BPF_REG_6, offsetof(Window, size)),
      INSN(BPF_JMP | BPF_JGT | BPF_K, BPF_REG_2, 0, 4, KERNEL_READ_MAX),
      MOVE(BPF_REG_1, BPF_REG_6),
      ADD(BPF_REG_1, offsetof(Window, data)),
      CALL(BPF_FUNC_probe_read_kernel),
      STORE(BPF_REG_6, BPF_REG_0, offsetof(Window, result)),
      SET(BPF_REG_0, 0),
      EXIT(),
  };
  return bpf_load(code, G_N_ELEMENTS(code));
}

KernelReader *kernel_reader_new(void) {
  g_autoptr(KernelReader) r = g_new0(KernelReader, 1);
  r->program = -1;
  r->map = bpf_shared_map(sizeof(Window));
  if (r->map < 0)
    return NULL;
  void *m = mmap(NULL, sizeof(Window), PROT_READ | PROT_WRITE, MAP_SHARED, r->map, 0);
  if (m == MAP_FAILED)
    return NULL;
  r->window = m;
  r->program = load_program(r->map);
  guint64 word;
  if (r->program < 0 || !kernel_reader_self(r) || !kernel_read(r, kernel_reader_self(r), &word, sizeof word))
    return NULL;
  return g_steal_pointer(&r);
}

void kernel_reader_free(KernelReader *r) {
  if (!r)
    return;
  if (r->window)
    (void)munmap(r->window, sizeof *r->window);
  if (r->program >= 0)
    (void)close(r->program);
  if (r->map >= 0)
    (void)close(r->map);
  g_free(r);
}

static bool run(KernelReader *r, guint64 address, size_t size) {
  r->window->address = address;
  r->window->size = size;
  r->window->result = -EIO;
  return bpf_run(r->program);
}

bool kernel_read(KernelReader *r, guint64 address, void *ret, size_t size) {
  if (size > KERNEL_READ_MAX || !address || !run(r, address, size) || __atomic_load_n(&r->window->result, __ATOMIC_ACQUIRE) != 0)
    return false;
  memcpy(ret, r->window->data, size);
  return true;
}

guint64 kernel_reader_self(KernelReader *r) {
  return run(r, 0, 0) ? r->window->self : 0;
}
