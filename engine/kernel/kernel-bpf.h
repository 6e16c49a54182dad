/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* bpf(2) for programs of a few instructions that the engine itself runs (BPF_PROG_TYPE_SYSCALL). */

#include <glib.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (short)(o), .imm = (int)(i)})
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE(d, s, o) INSN(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define MOVE(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, value)
#define ADD(d, value) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, value)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)
#define EXIT() INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static inline int bpf_call(int command, union bpf_attr *attr) {
  return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

/* A map of one value of @size bytes, to be mapped by the program's user; negative: it cannot be made. */
static inline int bpf_shared_map(size_t size) {
  union bpf_attr a = {0};
  a.map_type = BPF_MAP_TYPE_ARRAY;
  a.key_size = 4;
  a.value_size = (guint32)size;
  a.max_entries = 1;
  a.map_flags = BPF_F_MMAPABLE;
  return bpf_call(BPF_MAP_CREATE, &a);
}

/* Helpers that read the kernel's memory are for programs under a licence compatible with its own; the LGPL (section 3) lets
 * these instructions be taken under the GPL. */
static inline int bpf_load(const struct bpf_insn *code, size_t n) {
  union bpf_attr a = {0};
  a.prog_type = BPF_PROG_TYPE_SYSCALL;
  a.insns = (guint64)(uintptr_t)code;
  a.insn_cnt = (guint32)n;
  a.license = (guint64)(uintptr_t) "GPL";
  a.prog_flags = BPF_F_SLEEPABLE;
  return bpf_call(BPF_PROG_LOAD, &a);
}

static inline bool bpf_run(int program) {
  union bpf_attr a = {0};
  a.test.prog_fd = (guint32)program;
  return bpf_call(BPF_PROG_TEST_RUN, &a) == 0;
}
