/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "run-program.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct TestOp {
  const char *what;
  long nr, result;
  Arg args[6];
  Expect expect;
  int64_t value;
} TestOp;

struct Program {
  GArray *ops;
  GByteArray *data;
};

Program *program_new(void) {
  Program *p = g_new0(Program, 1);
  p->ops = g_array_new(FALSE, TRUE, sizeof(TestOp));
  p->data = g_byte_array_new();
  return p;
}

void program_free(Program *p) {
  if (!p)
    return;
  g_array_unref(p->ops);
  g_byte_array_unref(p->data);
  g_free(p);
}

size_t program_data(Program *p, const void *bytes, size_t size) {
  static const guint8 zeroes[8];
  g_byte_array_append(p->data, zeroes, (8 - p->data->len % 8) % 8);
  guint at = p->data->len;
  g_byte_array_set_size(p->data, at + (guint)size);
  if (bytes)
    memcpy(p->data->data + at, bytes, size);
  else
    memset(p->data->data + at, 0, size);
  return at;
}

size_t program_string(Program *p, const char *text) {
  return program_data(p, text, strlen(text) + 1);
}

size_t program_add(Program *p, const char *what, long nr, const Arg *args, size_t n_args) {
  TestOp op = {.what = what, .nr = nr};
  memcpy(op.args, args, n_args * sizeof *args);
  g_array_append_val(p->ops, op);
  return p->ops->len - 1;
}

void program_expect(Program *p, Expect expect, int64_t value) {
  TestOp *op = &g_array_index(p->ops, TestOp, p->ops->len - 1);
  op->expect = expect;
  op->value = value;
}

size_t program_n_ops(const Program *p) {
  return p->ops->len;
}

static long value_of(const Program *p, Arg arg) {
  switch (arg.kind) {
  case ARG_KIND_DATA:
    return (long)(p->data->data + arg.value);
  case ARG_KIND_RESULT:
    return g_array_index(p->ops, TestOp, arg.value).result;
  default:
    return (long)arg.value;
  }
}

bool program_run_here(Program *p, const char **ret_what, long *ret_result) {
  for (guint i = 0; i < p->ops->len; i++) {
    TestOp *op = &g_array_index(p->ops, TestOp, i);
    long a[6];
    for (int k = 0; k < 6; k++)
      a[k] = value_of(p, op->args[k]);
    op->result = syscall(op->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (op->result == -1)
      op->result = -errno;
    bool bad = op->result < 0 && op->result > -4096;
    if ((op->expect == EXPECT_OK && bad) || (op->expect == EXPECT_EQUAL && op->result != op->value)) {
      *ret_what = op->what;
      *ret_result = op->result;
      return false;
    }
  }
  return true;
}
