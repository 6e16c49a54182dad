/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* bpf(2) for programs of a few instructions that the engine itself runs (BPF_PROG_TYPE_SYSCALL). */

#include <errno.h>
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

#define BPF_LOAD_TRIES 10

/* A signal that comes meanwhile ends the kernel's look at the program (EAGAIN). */
static inline int bpf_try_load(union bpf_attr *attr) {
  int fd = -1;
  for (int i = 0; i < BPF_LOAD_TRIES && fd < 0 && (i == 0 || errno == EAGAIN); i++)
    fd = bpf_call(BPF_PROG_LOAD, attr);
  return fd;
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
  return bpf_try_load(&a);
}

/* A program that the kernel runs for each thing of a kind (Documentation/bpf/bpf_iterators.rst); @iterator: the kind, by the number of its
 * function in the kernel's types. */
static inline int bpf_load_iterator(const struct bpf_insn *code, size_t n, guint32 iterator) {
  union bpf_attr a = {0};
  a.prog_type = BPF_PROG_TYPE_TRACING;
  a.expected_attach_type = BPF_TRACE_ITER;
  a.attach_btf_id = iterator;
  a.insns = (guint64)(uintptr_t)code;
  a.insn_cnt = (guint32)n;
  a.license = (guint64)(uintptr_t) "GPL";
  return bpf_try_load(&a);
}

/* A descriptor that runs it over what one thread has, when it is read (since 6.1). */
static inline int bpf_iterate_task(int program, pid_t tid) {
  union bpf_iter_link_info info = {.task.tid = (guint32)tid};
  union bpf_attr link = {0}, iter = {0};
  link.link_create.prog_fd = (guint32)program;
  link.link_create.attach_type = BPF_TRACE_ITER;
  link.link_create.iter_info = (guint64)(uintptr_t)&info;
  link.link_create.iter_info_len = sizeof info;
  int fd = bpf_call(BPF_LINK_CREATE, &link);
  if (fd < 0)
    return fd;
  iter.iter_create.link_fd = (guint32)fd;
  int made = bpf_call(BPF_ITER_CREATE, &iter);
  (void)close(fd);
  return made;
}

static inline bool bpf_run(int program) {
  union bpf_attr a = {0};
  a.test.prog_fd = (guint32)program;
  return bpf_call(BPF_PROG_TEST_RUN, &a) == 0;
}
