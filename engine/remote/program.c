/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "program-private.h"
#include <string.h>
#include <sys/syscall.h>

Program *program_new(void) {
  Program *p = g_new0(Program, 1);
  p->ops = g_array_new(FALSE, TRUE, sizeof(Op));
  p->infos = g_array_new(FALSE, TRUE, sizeof(OpInfo));
  p->data = g_byte_array_new();
  p->pointers = g_array_new(FALSE, FALSE, sizeof(size_t));
  return p;
}

void program_free(Program *p) {
  if (!p)
    return;
  g_array_unref(p->ops);
  g_array_unref(p->infos);
  g_byte_array_unref(p->data);
  g_array_unref(p->pointers);
  g_free(p);
}

size_t program_data(Program *p, const void *bytes, size_t size) {
  static const guint8 zeroes[8];
  g_byte_array_append(p->data, zeroes, (guint)(-p->data->len & 7));
  size_t offset = p->data->len;
  if (size == 0)
    return offset;
  g_byte_array_set_size(p->data, (guint)(offset + size));
  if (bytes)
    memcpy(p->data->data + offset, bytes, size);
  else
    memset(p->data->data + offset, 0, size);
  return offset;
}

size_t program_string(Program *p, const char *text) {
  return program_data(p, text, strlen(text) + 1);
}

void program_data_pointer(Program *p, size_t at, size_t target) {
  uint64_t offset = target;
  memcpy(p->data->data + at, &offset, sizeof offset);
  g_array_append_val(p->pointers, at);
}

size_t program_add(Program *p, const char *what, long nr, const Arg *args, size_t n_args) {
  g_assert(n_args <= 6);
  Op op = {.nr = (uint32_t)nr};
  for (size_t i = 0; i < n_args; i++) {
    op.args[i] = args[i].value;
    op.kinds |= (uint16_t)(args[i].kind << (2 * i));
  }
  OpInfo info = {.what = what, .n_args = (uint8_t)n_args};
  g_array_append_val(p->ops, op);
  g_array_append_val(p->infos, info);
  return p->ops->len - 1;
}

void program_set_arg(Program *p, size_t op, size_t arg, uint64_t value) {
  g_array_index(p->ops, Op, op).args[arg] = value;
}

void program_expect(Program *p, Expect expect, int64_t value) {
  OpInfo *info = &g_array_index(p->infos, OpInfo, p->infos->len - 1);
  Op *op = &g_array_index(p->ops, Op, p->ops->len - 1);
  info->expect = expect;
  info->value = value;
  if (expect == EXPECT_ANY)
    op->flags |= OP_FLAG_IGNORE;
}

void program_ia32(Program *p) {
  g_array_index(p->ops, Op, p->ops->len - 1).flags |= OP_FLAG_IA32;
}

void program_child_lane(Program *p, uint64_t lane) {
  Op *op = &g_array_index(p->ops, Op, p->ops->len - 1);
  op->flags |= OP_FLAG_CLONE;
  op->extra = lane;
}

void program_use_tiles(Program *p) {
  g_array_index(p->ops, Op, p->ops->len - 1).flags |= OP_FLAG_TILES;
}

void program_repeat(Program *p, uint64_t end) {
  Op *op = &g_array_index(p->ops, Op, p->ops->len - 1);
  op->flags |= OP_FLAG_REPEAT;
  op->extra = end;
}

bool program_has_clones(const Program *p) {
  for (guint i = 0; i < p->ops->len; i++)
    if (g_array_index(p->ops, Op, i).flags & OP_FLAG_CLONE)
      return true;
  return false;
}

bool program_op_reads(const Program *p, size_t op) {
  const Op *o = &g_array_index(p->ops, Op, op);
  return o->nr == SYS_preadv && !(o->flags & OP_FLAG_IA32);
}

size_t program_n_ops(const Program *p) {
  return p->ops->len;
}

bool program_all(const Program *p, bool (*test)(uint32_t nr, uint64_t first)) {
  for (guint i = 0; i < p->ops->len; i++) {
    const Op *o = &g_array_index(p->ops, Op, i);
    if (o->flags & OP_FLAG_IA32 || !test(o->nr, o->args[0]))
      return false;
  }
  return true;
}

static void print_arg(const Op *op, size_t i, FILE *out) {
  unsigned kind = (op->kinds >> (2 * i)) & 3;
  static const char *const prefix[] = {"", "data+", "result#", "word+"};
  if (op->args[i] < 4096)
    (void)fprintf(out, "%s%s%" G_GUINT64_FORMAT, i ? ", " : "", prefix[kind], op->args[i]);
  else
    (void)fprintf(out, "%s%s0x%" G_GINT64_MODIFIER "x", i ? ", " : "", prefix[kind], op->args[i]);
}

void program_print(const Program *p, FILE *out) {
  for (guint n = 0; n < p->ops->len; n++) {
    const Op *op = &g_array_index(p->ops, Op, n);
    const OpInfo *info = &g_array_index(p->infos, OpInfo, n);
    (void)fprintf(out, "    #%u %s: %s %u(", n, info->what, op->flags & OP_FLAG_IA32 ? "int80" : "syscall", op->nr);
    for (size_t i = 0; i < info->n_args; i++)
      print_arg(op, i, out);
    (void)fputs(")", out);
    if (op->flags & OP_FLAG_REPEAT)
      (void)fprintf(out, " and so on up to %" G_GUINT64_FORMAT, op->extra);
    if (info->expect == EXPECT_EQUAL)
      (void)fprintf(out, " = %" G_GINT64_FORMAT, info->value);
    (void)fputs("\n", out);
  }
}
