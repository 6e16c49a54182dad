/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* 32-bit programs in images: what no kernel would make of one is refused. */
#include "error.h"
#include "fixture.h"
#include "image.h"
#include <stdlib.h>
#include <string.h>

static UserX86RegsEntry *registers_of(const Task *task, guint thread) {
  return ((const Thread *)task->threads->pdata[thread])->core->thread_info->gpregs;
}

static void add_entry(ThreadInfoX86 *info, guint32 number) {
  info->tls = realloc(info->tls, (info->n_tls + 1) * sizeof *info->tls);
  UserDescT *e = info->tls[info->n_tls++] = malloc(sizeof *e);
  user_desc_t__init(e);
  e->entry_number = number;
}

/* Its root becomes one, but for its memory. */
static Checkpoint *checkpoint_of_ia32(void) {
  Checkpoint *c = fixture_rich();
  const Task *root = c->tasks->pdata[0];
  for (guint i = 0; i < root->threads->len; i++) {
    UserX86RegsEntry *g = registers_of(root, i);
    g->has_mode = true;
    g->mode = USER_X86_REGS_MODE__COMPAT;
    g->cs = 0x23;
    g->ip = 0xf7fc1579;
    ThreadInfoX86 *info = ((const Thread *)root->threads->pdata[i])->core->thread_info;
    while (info->n_tls)
      user_desc_t__free_unpacked(info->tls[--info->n_tls], NULL);
    for (guint32 number = 12; number < 15; number++)
      add_entry(info, number);
  }
  return c;
}

static void spoil_nothing(const Task *root) {
  (void)root;
}

static void spoil_mode(const Task *root) {
  registers_of(root, 1)->mode = USER_X86_REGS_MODE__NATIVE;
}

static void spoil_leader(const Task *root) {
  registers_of(root, 0)->has_mode = false;
  registers_of(root, 0)->mode = USER_X86_REGS_MODE__NATIVE;
}

static void spoil_segment(const Task *root) {
  registers_of(root, 1)->cs = 0x33;
}

static void spoil_address(const Task *root) {
  registers_of(root, 1)->ip = 1ull << 32;
}

static void spoil_entry(const Task *root) {
  ((const Thread *)root->threads->pdata[1])->core->thread_info->tls[2]->entry_number = 15;
}

static void spoil_number(const Task *root) {
  add_entry(((const Thread *)root->threads->pdata[1])->core->thread_info, 12);
}

static void test_nonsense(void) {
  static const struct {
    void (*spoil)(const Task *root);
    const char *says;
  } ways[] = {{spoil_nothing, "beyond the address space of a 32-bit program"}, {spoil_mode, "32-bit and 64-bit threads"},
      {spoil_leader, "32-bit and 64-bit threads"}, {spoil_segment, "none of a 32-bit program"}, {spoil_address, "none of a 32-bit program"},
      {spoil_entry, "there is no entry 15"}, {spoil_number, "tls: 4 elements"}};
  for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
    g_autoptr(Checkpoint) c = checkpoint_of_ia32();
    g_autoptr(GError) error = NULL;
    char *path;
    guint64 written;
    ways[i].spoil(c->tasks->pdata[0]);
    int dir = fixture_directory(&path);
    fixture_content(c, dir);
    g_assert_false(image_store(c, dir, false, &written, &error));
    fixture_remove(path, dir);
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
    if (!strstr(error->message, ways[i].says))
      g_error("%s, and not: %s", error->message, ways[i].says);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/compat/nonsense", test_nonsense);
  return g_test_run();
}
