/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin that is a program: the same as plugin-native.c, over the socket. It has no environment: its orders are in
 * the file named like itself with ".conf" behind: PLUGIN_CALLS, a newline, PLUGIN_DO. */

#include "checkpoint-plugin.h"
#include "misbehave.h"
#include "old-door.h"
#include "plugin.pb-c.h"
#include <inttypes.h>
#include <stdbool.h>
#include <sys/socket.h>

int criu_get_image_dir(void) {
  return -1;
}

static char packet[256 * 1024];
static char records[8][256];
static unsigned n_records;

static PluginRequest *receive(int *ret_fd) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec iov = {packet, sizeof packet};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(3, &msg, MSG_CMSG_CLOEXEC);
  if (n <= 0)
    exit(0);
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  *ret_fd = -1;
  if (c)
    memcpy(ret_fd, CMSG_DATA(c), sizeof *ret_fd);
  return plugin_request__unpack(NULL, (size_t)n, (const uint8_t *)packet);
}

static void reply_bytes(const void *bytes, size_t size, int fd) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec iov = {(void *)bytes, size};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (fd >= 0) {
    msg.msg_control = &control;
    msg.msg_controllen = sizeof control.space;
    control.header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
  }
  (void)sendmsg(3, &msg, MSG_NOSIGNAL);
}

static void reply(const PluginReply *m, int fd) {
  static uint8_t bytes[256 * 1024];
  reply_bytes(bytes, plugin_reply__pack(m, bytes), fd);
}

static void record(uint32_t serial, const void *data, size_t size) {
  PluginReply m = PLUGIN_REPLY__INIT;
  m.serial = serial;
  m.has_record = true;
  m.record = (ProtobufCBinaryData){size, (uint8_t *)data};
  reply(&m, -1);
}

static const char *text_of(const ProtobufCBinaryData *bytes) {
  static char text[256];
  (void)snprintf(text, sizeof text, "%.*s", (int)bytes->len, (const char *)bytes->data);
  return text;
}

/* Beside the answer. */
static PluginReply beside = PLUGIN_REPLY__INIT;

static int dump(const PluginRequest *q, int fd) {
  const PluginObject *o = q->object;
  char what[64];
  test_describe(fd, what);
  test_note("dump kind %u id %" PRIu64 " pid %d fd %d %s", o->kind, o->id, o->pid, o->number, what);
  int r = test_answer("dump", 0);
  beside.reason = r > 0 ? (char *)"the program says no" : NULL;
  const char *text = text_of(o->kind == CHECKPOINT_KIND_UNIX_SOCKET ? &o->peer_name : &o->path);
  if (r || *text != '/')
    return r ? r : -ENOTSUP;
  record(q->serial, text, strlen(text));
  return 0;
}

static int restore(const PluginRequest *q, int *ret_fd) {
  test_note("restore id %" PRIu64 " records %u %s", q->object->id, q->n_records, n_records ? records[0] : "");
  int r = test_answer("restore", 0);
  if (r == CHECKPOINT_CONNECT) {
    beside.address = q->object->argument;
    beside.has_first = true;
    beside.first = (ProtobufCBinaryData){4, (uint8_t *)"ping"};
  }
  if (r || n_records != 1 || q->n_records != 1)
    return r ? r : -ENODATA;
  if (q->object->kind == CHECKPOINT_KIND_MOUNT) {
    char from[4096];
    (void)snprintf(from, sizeof from, "%s.from", records[0]);
    *ret_fd = open(from, O_PATH | O_CLOEXEC);
    return *ret_fd < 0 ? -errno : 0;
  }
  *ret_fd =
      q->object->kind == CHECKPOINT_KIND_UNIX_SOCKET ? old_connect(records[0]) : open(records[0], O_RDONLY | O_CLOEXEC);
  return *ret_fd < 0 ? -errno : 0;
}

static int memory_restore(const PluginRequest *q, int fd) {
  char page[4096];
  memset(page, 0xa5, sizeof page);
  test_note("memory_restore %" PRIx64, q->object->start);
  for (uint64_t at = 4096; at < q->object->end - q->object->start; at += sizeof page)
    if (pwrite(fd, page, sizeof page, (off_t)at) != sizeof page)
      return -EIO;
  return test_answer("memory_restore", 0);
}

static int connected(int fd) {
  char text[8] = "";
  if (fd < 0 || read(fd, text, 4) != 4)
    return -EIO;
  test_note("connected %s", text);
  return test_answer("connected", 0);
}

static int act(const PluginRequest *q, int fd, int *ret_fd) {
  switch (q->operation) {
  case PLUGIN_OPERATION__PLUGIN_INIT:
    test_note("init stage %u %s caller %d fd %s", q->stage, q->name, (int)q->caller, fd >= 0 ? "yes" : "no");
    return test_answer("init", 0);
  case PLUGIN_OPERATION__PLUGIN_FINI:
    test_note("fini %d", q->result);
    return test_answer("fini", 0);
  case PLUGIN_OPERATION__PLUGIN_BEGIN:
    test_note("begin");
    return 0;
  case PLUGIN_OPERATION__PLUGIN_END:
    test_note("end");
    return 0;
  case PLUGIN_OPERATION__PLUGIN_DUMP:
    return dump(q, fd);
  case PLUGIN_OPERATION__PLUGIN_RESTORE:
    return restore(q, ret_fd);
  case PLUGIN_OPERATION__PLUGIN_MEMORY_DUMP:
    if (q->object->start != 0x600000000000u)
      return -ENOTSUP;
    test_note("memory_dump");
    return 0;
  case PLUGIN_OPERATION__PLUGIN_MEMORY_RESTORE:
    return memory_restore(q, fd);
  case PLUGIN_OPERATION__PLUGIN_MOMENT:
    test_note("moment %u %d", q->moment, q->pid);
    return -ENOTSUP;
  case PLUGIN_OPERATION__PLUGIN_CONNECTED:
    return connected(fd);
  case PLUGIN_OPERATION__PLUGIN_RECORD:
  default:
    return -EPROTO;
  }
}

/* What no good program would send. */
static void misbehave(const PluginRequest *q) {
  PluginReply m = PLUGIN_REPLY__INIT;
  m.serial = q->serial;
  m.has_status = true;
  static const char *const names[] = {"", "INIT", "FINI", "BEGIN", "END", "DUMP", "RESTORE"};
  const char *name = (unsigned)q->operation < 7 ? names[q->operation] : "";
  int trick = *name ? test_answer(name, 0) : 0;
  if (trick >= 100) { /* packets of random bytes, half of them with a good beginning */
    srand((unsigned)trick);
    for (int i = 0; i < 20; i++) {
      size_t size = (size_t)rand() % 300;
      for (size_t k = 0; k < size; k++)
        packet[k] = (char)rand();
      if (rand() % 2 && size > 2)
        packet[0] = 0x08, packet[1] = (char)q->serial;
      reply_bytes(packet, size, rand() % 4 ? -1 : 0);
    }
  }
  switch (trick) {
  case 1: /* no message */
    reply_bytes("\xff\xff\xff\xffgarbage", 11, -1);
    break;
  case 2: /* another request's answer */
    m.serial += 7;
    reply(&m, -1);
    break;
  case 3: /* a descriptor that nobody wanted */
    reply(&m, 0);
    break;
  case 4: /* a record too large */
    record(q->serial, packet, CHECKPOINT_RECORD_MAX + 1);
    break;
  case 5: /* news without end */
    m.has_status = false;
    for (;;)
      reply(&m, -1);
  case 6: /* an empty packet */
    reply_bytes("", 0, -1);
    break;
  default:
    break;
  }
}

int main(int argc, char **argv) {
  static char conf[4096], path[4096];
  (void)snprintf(path, sizeof path, "%s.conf", argv[0]);
  int in = open(path, O_RDONLY | O_CLOEXEC), fd = -1;
  if (in >= 0)
    (void)!read(in, conf, sizeof conf - 1);
  char *line = strchr(conf, '\n');
  if (line) {
    *line = '\0';
    test_calls = conf;
    test_do = line + 1;
  }
  for (;;) {
    PluginRequest *q = receive(&fd);
    if (q->operation == PLUGIN_OPERATION__PLUGIN_RECORD) {
      if (n_records < 8)
        (void)snprintf(records[n_records++], sizeof records[0], "%s", text_of(&q->record));
      plugin_request__free_unpacked(q, NULL);
      continue;
    }
    PluginReply m = PLUGIN_REPLY__INIT;
    int out = -1;
    misbehave(q);
    int status = act(q, fd, &out);
    m = beside;
    beside = (PluginReply)PLUGIN_REPLY__INIT;
    m.status = status;
    m.serial = q->serial;
    m.has_status = true;
    reply(&m, m.status == 0 ? out : -1);
    bool last = q->operation == PLUGIN_OPERATION__PLUGIN_FINI;
    if (q->operation != PLUGIN_OPERATION__PLUGIN_INIT)
      n_records = 0;
    plugin_request__free_unpacked(q, NULL);
    if (fd >= 0)
      (void)close(fd);
    if (last)
      return 0;
  }
}
