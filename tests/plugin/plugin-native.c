/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin of the third door: records, order, moments, memory. */

#include "checkpoint-plugin.h"
#include "old-door.h"
#include <inttypes.h>

#ifndef NAME
#define NAME "native-test"
#define PRIORITY 0
#endif

#define MEMORY_AT 0x600000000000u

typedef struct Context {
  const struct checkpoint_host *host;
  unsigned magic;
} Context;

int criu_get_image_dir(void) {
  return -1;
}

static Context context = {.magic = 0x1234};

static int native_init(const struct checkpoint_host *host, void **ret_context) {
  test_begin();
  test_note("%s init stage %u caller %d", NAME, host->stage, (int)host->caller);
  host->log(host, 6, "%s looks around", NAME);
  context.host = host;
  *ret_context = &context;
  const void *data;
  size_t size;
  if (host->stage == CHECKPOINT_STAGE_DUMP && host->record_add(host, 0, "mine", 4) < 0)
    return -EIO;
  if (host->stage == CHECKPOINT_STAGE_RESTORE && host->record_get(host, 0, 0, &data, &size) == 0)
    test_note("%s own record %.*s", NAME, (int)size, (const char *)data);
  return test_answer("init", 0);
}

static void native_fini(void *data, int result) {
  test_note("%s fini %d %s", NAME, result, ((Context *)data)->magic == 0x1234 ? "context" : "no context");
}

static int native_begin(void *data, uint64_t n) {
  test_note("%s begin %" PRIu64, NAME, n);
  return test_answer("begin", 0);
}

static int native_end(void *data) {
  test_note("%s end", NAME);
  return test_answer("end", 0);
}

/* The peer's path or the device's, in two records. */
static int native_dump(void *data, const struct checkpoint_object *o) {
  const Context *c = data;
  test_note("%s dump kind %u id %" PRIu64 " pid %d fd %d path %s peer %s peer_pid %d uid %u", NAME, o->kind, o->id,
      o->pid, o->number, o->path ? o->path : "-", o->peer_name ? o->peer_name : "-", o->peer_pid, o->peer_uid);
  int r = test_answer("dump", 0);
  if (test_answer("connect", 0)) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    r = c->host->connect_as(c->host, fd, NULL, 0, 0);
    test_note("%s connect_as %d %s", NAME, r, fcntl(fd, F_GETFL) & O_NONBLOCK ? "changed" : "as it was");
    (void)close(fd);
    return r;
  }
  if (r > 0) {
    c->host->explain(c->host, "the weather\nis bad", "wait for the sun");
    test_note("%s argument %s tasks %d %d", NAME, o->argument ? o->argument : "-", c->host->has_task(c->host, o->pid),
        c->host->has_task(c->host, getpid()));
  }
  if (r || o->kind == CHECKPOINT_KIND_MAPPING)
    return r ? r : -ENOTSUP;
  if (o->kind == CHECKPOINT_KIND_MOUNT && !strstr(o->path, "/plugged-"))
    return -ENOTSUP;
  const char *text = o->kind == CHECKPOINT_KIND_UNIX_SOCKET ? o->peer_name : o->path;
  if (!text || *text != '/')
    return -ENOTSUP;
  r = c->host->record_add(c->host, o->id, "first", 5);
  if (r == 0 && test_answer("big", 0)) {
    static char big[CHECKPOINT_RECORD_MAX + 1];
    return c->host->record_add(c->host, o->id, big, sizeof big);
  }
  if (r == 0 && test_answer("many", 0)) {
    static char most[CHECKPOINT_RECORD_MAX];
    r = c->host->record_add(c->host, o->id, most, sizeof most);
  }
  (void)c->host->progress(c->host, 1, 2);
  return r < 0 ? r : c->host->record_add(c->host, o->id, text, strlen(text));
}

static int native_restore(void *data, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  const Context *c = data;
  const void *record;
  size_t size;
  char text[128] = "";
  test_note("%s restore kind %u id %" PRIu64 " pid %d fd %d peer %s", NAME, o->kind, o->id, o->pid, o->number,
      o->peer_name ? o->peer_name : "-");
  int r = test_answer("restore", 0);
  if (r > 0 || test_answer("why", 0))
    c->host->explain(c->host, "the weather is worse", NULL);
  if (r == CHECKPOINT_CONNECT)
    test_note("%s connect_to %d %d %d", NAME, c->host->connect_to(c->host, "relative", NULL, 0),
        c->host->connect_to(c->host, NULL, "", 5000), c->host->connect_to(c->host, o->argument, "ping", 4));
  if (r)
    return r;
  if (c->host->record_get(c->host, o->id, 0, &record, &size) < 0 || size != 5 || memcmp(record, "first", 5) != 0 ||
      c->host->record_get(c->host, o->id, 2, &record, &size) != -ENOENT ||
      c->host->record_get(c->host, o->id, 1, &record, &size) < 0 || size >= sizeof text)
    return -ENODATA;
  memcpy(text, record, size);
  if (o->kind == CHECKPOINT_KIND_UNIX_SOCKET && test_answer("disconnect", 0))
    return CHECKPOINT_DISCONNECTED;
  if (test_answer("always-again", 0))
    return CHECKPOINT_AGAIN;
  if (o->kind == CHECKPOINT_KIND_MOUNT) {
    char from[4096];
    (void)snprintf(from, sizeof from, "%s%s.from", o->outside, text);
    *ret_fd = strcmp(text, o->path) == 0 ? open(from, O_PATH | O_CLOEXEC) : -1;
    return *ret_fd < 0 ? -errno : 0;
  }
  *ret_fd = o->kind == CHECKPOINT_KIND_UNIX_SOCKET ? old_connect(text) : open(text, O_RDONLY | O_CLOEXEC);
  return *ret_fd < 0 ? -errno : 0;
}

/* What was said first has an answer. */
static int native_connected(void *data, const struct checkpoint_object *o, int fd) {
  char text[8] = "";
  int r = test_answer("connected", 0);
  if (read(fd, text, 4) != 4)
    return -EIO;
  test_note("%s connected id %" PRIu64 " %s", NAME, o->id, text);
  return r;
}

static int memory_dump(void *data, const struct checkpoint_object *o) {
  const Context *c = data;
  unsigned char bytes[64];
  if (o->start != MEMORY_AT)
    return -ENOTSUP;
  int r = c->host->memory_read(c->host, o->pid, o->start + 4096, bytes, sizeof bytes);
  test_note("%s memory_dump pid %d %" PRIx64 "-%" PRIx64 " prot %d: %d %02x", NAME, o->pid, o->start, o->end,
      o->protection, r, bytes[0]);
  return r < 0 ? r : c->host->record_add(c->host, o->id, bytes, 1);
}

/* Every page but the first, which stays empty, is the complement of what it was. */
static int memory_restore(void *data, const struct checkpoint_object *o, int fd) {
  const Context *c = data;
  const void *record;
  size_t size;
  unsigned char page[4096];
  test_note("%s memory_restore pid %d %" PRIx64, NAME, o->pid, o->start);
  int r = test_answer("memory_restore", 0);
  if (r)
    return r;
  if (c->host->record_get(c->host, o->id, 0, &record, &size) < 0 || size != 1)
    return -ENODATA;
  memset(page, ~*(const unsigned char *)record & 0xff, sizeof page);
  for (uint64_t at = 4096; at < o->end - o->start; at += sizeof page)
    if (pwrite(fd, page, sizeof page, (off_t)at) != sizeof page)
      return -EIO;
  return 0;
}

static int native_moment(void *data, uint32_t moment, int pid) {
  test_note("%s moment %u %d", NAME, moment, pid);
  return test_answer("moment", -ENOTSUP);
}

#ifdef AFTER
static const char *const after[] = {AFTER, NULL};
#endif

CHECKPOINT_PLUGIN = {
#ifdef STRANGE_HEADER
    STRANGE_HEADER,
    .name = NAME,
#else
    CHECKPOINT_PLUGIN_HEADER(NAME, "7.1", "A plugin for tests"),
#endif
#ifdef FLAGS
    .flags = FLAGS,
#endif
    .kinds = CHECKPOINT_KIND_UNIX_SOCKET | CHECKPOINT_KIND_FILE | CHECKPOINT_KIND_MAPPING | CHECKPOINT_KIND_MEMORY | CHECKPOINT_KIND_MOUNT,
    .priority = PRIORITY,
#ifdef AFTER
    .after = after,
#endif
    .init = native_init,
    .fini = native_fini,
    .begin = native_begin,
    .end = native_end,
    .dump = native_dump,
    .restore = native_restore,
    .memory_dump = memory_dump,
    .memory_restore = memory_restore,
    .moment = native_moment,
    .connected = native_connected,
};
