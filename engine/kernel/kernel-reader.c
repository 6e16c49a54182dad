/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernel-types.h"
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

static int bpf(int command, union bpf_attr *attr) {
  return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int make_map(void) {
  union bpf_attr a = {0};
  a.map_type = BPF_MAP_TYPE_ARRAY;
  a.key_size = 4;
  a.value_size = sizeof(Window);
  a.max_entries = 1;
  a.map_flags = BPF_F_MMAPABLE;
  return bpf(BPF_MAP_CREATE, &a);
}

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (short)(o), .imm = (int)(i)})
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE(d, s, o) INSN(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)

/* Helpers that read the kernel's memory are for programs under a licence compatible with its own; the LGPL (section 3) lets
 * these instructions be taken under the GPL. */
static int load_program(int map) {
  const struct bpf_insn code[] = {
      INSN(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_6, BPF_PSEUDO_MAP_VALUE, 0, map),
      INSN(0, 0, 0, 0, 0),
      CALL(BPF_FUNC_get_current_task),
      STORE(BPF_REG_6, BPF_REG_0, offsetof(Window, self)),
      LOAD(BPF_REG_3, BPF_REG_6, offsetof(Window, address)),
      LOAD(BPF_REG_2, BPF_REG_6, offsetof(Window, size)),
      INSN(BPF_JMP | BPF_JGT | BPF_K, BPF_REG_2, 0, 4, KERNEL_READ_MAX),
      INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_6, 0, 0),
      INSN(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_1, 0, 0, offsetof(Window, data)),
      CALL(BPF_FUNC_probe_read_kernel),
      STORE(BPF_REG_6, BPF_REG_0, offsetof(Window, result)),
      INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
      INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  union bpf_attr a = {0};
  a.prog_type = BPF_PROG_TYPE_SYSCALL;
  a.insns = (guint64)(uintptr_t)code;
  a.insn_cnt = G_N_ELEMENTS(code);
  a.license = (guint64)(uintptr_t) "GPL";
  a.prog_flags = BPF_F_SLEEPABLE;
  return bpf(BPF_PROG_LOAD, &a);
}

KernelReader *kernel_reader_new(void) {
  g_autoptr(KernelReader) r = g_new0(KernelReader, 1);
  r->program = -1;
  r->map = make_map();
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
  union bpf_attr a = {0};
  r->window->address = address;
  r->window->size = size;
  r->window->result = -EIO;
  a.test.prog_fd = (guint32)r->program;
  return bpf(BPF_PROG_TEST_RUN, &a) == 0;
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
