/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings of io_uring in images: requests in flight and groups of buffers come back as they were, impossible ones are refused. */
#include "error.h"
#include "ext-file.pb-c.h"
#include "fixture.h"
#include "fown.pb-c.h"
#include "image.h"
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>

enum { ID = 4242, RINGS = 4096, ENTRIES = 4, LIST = 8 };

#define NEW(Type, init) ({ Type *new_ = calloc(1, sizeof *new_); init(new_); new_; })

static ProtobufCBinaryData bytes(size_t n, int first) {
  ProtobufCBinaryData b = {.len = n, .data = calloc(1, n)};
  b.data[0] = (guint8)first;
  return b;
}

static void add_file(Checkpoint *c) {
  FileEntry *file = NEW(FileEntry, file_entry__init);
  file->id = ID;
  file->type = FD_TYPES__EXT;
  file->ext = NEW(ExtFileEntry, ext_file_entry__init);
  file->ext->id = ID;
  file->ext->fown = NEW(FownEntry, fown_entry__init);
  checkpoint_add_file(c, file);
}

/* A poll and a timeout are in flight, more completions were made than requests taken, and buffers are there to be chosen from. */
static CkptUring *ring_new(void) {
  CkptUring *u = NEW(CkptUring, ckpt_uring__init);
  u->file_id = ID;
  u->sq_entries = ENTRIES, u->cq_entries = 2 * ENTRIES;
  u->sq_head = u->sq_tail = 5, u->cq_head = u->cq_tail = 9;
  u->rings = bytes(RINGS, 0), u->sqes = bytes(ENTRIES * 64, 0);
  u->request = calloc(2, sizeof *u->request);
  for (u->n_request = 0; u->n_request < 2; u->n_request++) {
    CkptUringRequest *q = u->request[u->n_request] = NEW(CkptUringRequest, ckpt_uring_request__init);
    q->tid = 1;
    q->sqe = bytes(64, u->n_request ? IORING_OP_TIMEOUT : IORING_OP_POLL_ADD);
    q->has_sec = q->has_nsec = u->n_request;
    q->sec = 3;
  }
  u->group = calloc(1, sizeof *u->group);
  CkptUringGroup *g = u->group[u->n_group++] = NEW(CkptUringGroup, ckpt_uring_group__init);
  g->id = 7, g->entries = LIST, g->head = 65535, g->flags = 1;
  g->content = bytes(LIST * 16, 42);
  return u;
}

static Checkpoint *checkpoint_with_ring(CkptUring **ret_ring) {
  Checkpoint *c = fixture_rich();
  add_file(c);
  g_ptr_array_add(c->urings, *ret_ring = ring_new());
  return c;
}

static GHashTable *store(const Checkpoint *c, GError **error) {
  char *path;
  guint64 written;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  GHashTable *files = image_store(c, dir, false, &written, error) ? fixture_slurp(path) : NULL;
  fixture_remove(path, dir);
  return files;
}

static void test_it_comes_back(void) {
  CkptUring *u;
  g_autoptr(Checkpoint) c = checkpoint_with_ring(&u);
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) files = store(c, &error);
  g_assert_no_error(error);
  g_autoptr(Checkpoint) again = fixture_load(files, &error);
  g_assert_no_error(error);
  const CkptUring *r = checkpoint_find_uring(again, ID);
  g_assert_nonnull(r);
  g_assert_cmpuint(r->n_request, ==, 2);
  g_assert_cmpmem(r->request[1]->sqe.data, r->request[1]->sqe.len, u->request[1]->sqe.data, 64);
  g_assert_cmpint(r->request[1]->sec, ==, 3);
  g_assert_cmpuint(r->n_group, ==, 1);
  g_assert_cmpuint(r->group[0]->head, ==, 65535);
  g_assert_cmpmem(r->group[0]->content.data, r->group[0]->content.len, u->group[0]->content.data, LIST * 16);
}

typedef void Spoil(CkptUring *u);

static void spoil_operation(CkptUring *u) {
  u->request[0]->sqe.data[0] = IORING_OP_OPENAT;
}

static void spoil_link(CkptUring *u) {
  u->request[0]->sqe.data[1] = IOSQE_IO_LINK;
}

static void spoil_credentials(CkptUring *u) {
  u->request[0]->sqe.data[offsetof(struct io_uring_sqe, personality)] = 1;
}

static void spoil_size(CkptUring *u) {
  u->request[0]->sqe.len = 63;
}

static void spoil_time(CkptUring *u) {
  u->request[1]->nsec = 1000000000;
}

static void spoil_no_time(CkptUring *u) {
  u->request[1]->has_sec = false;
}

static void spoil_number(CkptUring *u) {
  u->sq_head = u->sq_tail = 1;
}

static void spoil_thread(CkptUring *u) {
  u->flags = IORING_SETUP_SQPOLL;
}

static void spoil_entries(CkptUring *u) {
  u->group[0]->entries = LIST - 1;
}

static void spoil_content(CkptUring *u) {
  u->group[0]->content.len = LIST * 16 - 1;
}

static void spoil_head(CkptUring *u) {
  u->group[0]->head = 65536;
}

static void spoil_address(CkptUring *u) {
  u->group[0]->has_address = true; /* and memory of the kernel's */
}

static void test_nonsense(void) {
  static Spoil *const ways[] = {spoil_operation, spoil_link, spoil_credentials, spoil_size, spoil_time, spoil_no_time, spoil_number, spoil_thread,
      spoil_entries, spoil_content, spoil_head, spoil_address};
  for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
    CkptUring *u;
    g_autoptr(Checkpoint) c = checkpoint_with_ring(&u);
    g_autoptr(GError) error = NULL;
    ways[i](u);
    g_assert_null(store(c, &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
    g_assert_nonnull(strstr(error->message, "io_uring of file id 4242"));
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/rings/come-back", test_it_comes_back);
  g_test_add_func("/rings/nonsense", test_nonsense);
  return g_test_run();
}
