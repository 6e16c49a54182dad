/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin that is a program: the same as plugin-native.c, over the socket. It has no environment: its orders are in
 * the file named like itself with ".conf" behind: PLUGIN_CALLS, a newline, PLUGIN_DO. */

#include "checkpoint-plugin.h"
#include "misbehave.h"
#include "old-door.h"
#include "plugin.pb-c.h"
#include <inttypes.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int criu_get_image_dir(void) {
  return -1;
}

static char packet[256 * 1024];
static char records[8][256];
static unsigned n_records;

/* What came in the place of an answer. */
static PluginRequest *early;
static int early_fd;

static PluginRequest *receive(int *ret_fd) {
  PluginRequest *q = early;
  if (q) {
    early = NULL;
    *ret_fd = early_fd;
    return q;
  }
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

static const char *text_of(const ProtobufCBinaryData *bytes);

/* --- questions --- */

static PluginQuestion question(PluginAsk what) {
  PluginQuestion q = PLUGIN_QUESTION__INIT;
  q.what = what;
  return q;
}

static void send_question(uint32_t serial, const PluginQuestion *question, int fd) {
  PluginReply m = PLUGIN_REPLY__INIT;
  m.serial = serial;
  m.question = (PluginQuestion *)question;
  reply(&m, fd);
}

/* The answer, to be freed; NULL: the job has ended. */
static PluginRequest *ask(uint32_t serial, const PluginQuestion *question, int fd, int *ret_fd) {
  int got = -1;
  send_question(serial, question, fd);
  PluginRequest *a = receive(&got);
  if (ret_fd)
    *ret_fd = got;
  if (a->operation == PLUGIN_OPERATION__PLUGIN_ANSWER && a->serial == serial)
    return a;
  early = a;
  early_fd = got;
  return NULL;
}

static int ask_result(uint32_t serial, const PluginQuestion *question, int fd) {
  int got = -1;
  PluginRequest *a = ask(serial, question, fd, &got);
  int r = a && a->has_result ? a->result : -ECANCELED;
  if (a)
    plugin_request__free_unpacked(a, NULL);
  if (got >= 0)
    (void)close(got);
  return r;
}

static int ask_record_add(uint32_t serial, uint64_t id, const void *data, size_t size) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_RECORD_ADD);
  q.has_id = q.has_record = true;
  q.id = id;
  q.record = (ProtobufCBinaryData){size, (uint8_t *)data};
  return ask_result(serial, &q, -1);
}

static int ask_record_get(uint32_t serial, uint64_t id, uint32_t index, char text[64]) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_RECORD_GET);
  q.has_id = q.has_index = true;
  q.id = id;
  q.index = index;
  PluginRequest *a = ask(serial, &q, -1, NULL);
  int r = a ? a->result : -ECANCELED;
  (void)snprintf(text, 64, "%.*s", a ? (int)a->record.len : 0, a ? (const char *)a->record.data : "");
  if (a)
    plugin_request__free_unpacked(a, NULL);
  return r;
}

static int ask_has_task(uint32_t serial, int pid) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_HAS_TASK);
  q.has_pid = true;
  q.pid = pid;
  return ask_result(serial, &q, -1);
}

static int ask_progress(uint32_t serial, uint64_t done) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_PROGRESS);
  q.has_done = q.has_total = true;
  q.done = done;
  q.total = 50;
  return ask_result(serial, &q, -1);
}

static int ask_memory(uint32_t serial, int pid, uint64_t address, uint64_t size, int *ret_fd) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_MEMORY_READ);
  q.has_pid = q.has_address = q.has_size = true;
  q.pid = pid;
  q.address = address;
  q.size = size;
  PluginRequest *a = ask(serial, &q, -1, ret_fd);
  int r = a ? a->result : -ECANCELED;
  if (a)
    plugin_request__free_unpacked(a, NULL);
  return r;
}

/* Bytes of the whole mapping that are 0x5a; nobody can change what was given. */
static void note_memory(const PluginRequest *q) {
  const PluginObject *o = q->object;
  int fd = -1, r = ask_memory(q->serial, o->pid, o->start, o->end - o->start, &fd);
  const unsigned char *map = r < 0 ? MAP_FAILED : mmap(NULL, o->end - o->start, PROT_READ, MAP_SHARED, fd, 0);
  uint64_t n = 0;
  for (uint64_t i = 0; map != MAP_FAILED && i < o->end - o->start; i++)
    n += map[i] == 0x5a;
  bool fixed = pwrite(fd, "", 1, 0) < 0 && ftruncate(fd, 0) < 0 &&
               mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED;
  test_note("memory_read pid %d: %d, %" PRIu64 " bytes, %s", o->pid, r, n, fixed ? "sealed" : "open");
  if (fd >= 0)
    (void)close(fd);
  int none = ask_memory(q->serial, o->pid, o->start, 0, &fd), much = ask_memory(q->serial, o->pid, o->start, 65u << 20, &fd);
  test_note("memory_read strange %d %d %d %d", none, much, ask_memory(q->serial, o->pid, o->end - 4096, 1u << 30 >> 10, &fd),
      ask_memory(q->serial, 0x7ffffff, o->start, 4096, &fd));
}

static int ask_connect(uint32_t serial, const char *name, int type, unsigned uid, int *ret_fd) {
  PluginQuestion q = question(PLUGIN_ASK__PLUGIN_ASK_CONNECT_AS);
  q.has_uid = q.has_gid = q.has_socket_type = true;
  q.uid = q.gid = uid;
  q.socket_type = type;
  q.name = (char *)name;
  PluginRequest *a = ask(serial, &q, -1, ret_fd);
  int r = a ? a->result : -ECANCELED;
  if (a)
    plugin_request__free_unpacked(a, NULL);
  return r;
}

/* The other side answers, and has been told of that user. */
static void note_connection(uint32_t serial) {
  char text[8] = "";
  int fd = -1, other, r = ask_connect(serial, NULL, SOCK_STREAM, 7777, &fd);
  for (int i = 0; fd >= 0 && i < 2000 && (write(fd, i ? "" : "ping", i ? 0 : 4) < 0 || read(fd, text, 4) < 0); i++)
    (void)usleep(5000);
  int flags = fcntl(fd, F_GETFL);
  test_note("connect_as %d %s %s; %d %d", r, text, flags & O_NONBLOCK ? "at once" : "waits",
      ask_connect(serial, "relative", SOCK_STREAM, 1, &other), ask_connect(serial, "/nowhere", SOCK_STREAM, 1, &other));
  if (fd >= 0)
    (void)close(fd);
}

static int ask_content(uint32_t serial, PluginAsk what, int fd, PluginContent *ret) {
  PluginQuestion q = question(what);
  PluginRequest *a = ask(serial, &q, fd, NULL);
  int r = a ? a->result : -ECANCELED;
  *ret = (PluginContent)PLUGIN_CONTENT__INIT;
  if (a && a->content)
    *ret = *a->content;
  if (a)
    plugin_request__free_unpacked(a, NULL);
  return r;
}

/* A file of a file system that nobody answers for: whoever asks it for anything waits for ever. */
static void note_unserved(uint32_t serial) {
  char path[] = "/tmp/unserved.XXXXXX", options[64];
  PluginContent told;
  int serving = open("/dev/fuse", O_RDWR | O_CLOEXEC), place = mkstemp(path);
  (void)snprintf(options, sizeof options, "fd=%d,rootmode=100000,user_id=0,group_id=0", serving);
  bool there = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("none", path, "fuse", 0, options) == 0;
  int fd = there ? open(path, O_PATH | O_CLOEXEC) : -1;
  int hash = ask_content(serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_HASH, fd, &told);
  test_note("content of nobody %s %d %d", there ? "mounted" : strerror(errno), hash,
      ask_content(serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, fd, &told));
  if (there)
    (void)umount2(path, MNT_DETACH);
  (void)unlink(path);
  (void)close(fd);
  (void)close(serving);
  (void)close(place);
}

/* The file is made again where it is missing. */
static int content_restore(const PluginRequest *q) {
  PluginContent told, kept, now;
  char path[256];
  int pipes[2] = {-1, -1};
  (void)snprintf(path, sizeof path, "%s", text_of(&q->object->path));
  int fd = memfd_create("content", MFD_CLOEXEC), r = ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, -1, &told);
  if (r == -ENOSYS) /* nobody has content */
    return CHECKPOINT_REOPEN;
  if (r < 0)
    return r;
  (void)!pipe2(pipes, O_CLOEXEC);
  int zero = open("/dev/zero", O_RDWR | O_CLOEXEC), readable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  test_note("content strange %d %d %d %d", ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, pipes[1], &now),
      ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, zero, &now),
      ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, readable, &now),
      ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_HASH, pipes[0], &now));
  r = ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET, fd, &kept);
  char text[256] = "";
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kept.mode & 07777);
  if (r < 0 || out < 0 || write(out, text, (size_t)n) != n)
    return r < 0 ? r : -EIO;
  r = ask_content(q->serial, PLUGIN_ASK__PLUGIN_ASK_CONTENT_HASH, out, &now);
  test_note("content %" PRIu64 " %o %u of %" PRIu64 " %s time %s", told.length, told.mode, told.uid, kept.length, text,
      told.mtime_sec == 1000000000 ? "kept" : "lost");
  test_note("content_hash %d %s", r, now.hash == kept.hash && now.hash ? "same" : "other");
  note_unserved(q->serial);
  return close(out), CHECKPOINT_REOPEN;
}

static void note_questions_of_dump(const PluginRequest *q) {
  static char big[CHECKPOINT_RECORD_MAX + 1];
  test_note("record_add %d %d %d %d", ask_record_add(q->serial, 0, "own", 3),
      ask_record_add(q->serial, q->object->id, "extra", 5), ask_record_add(q->serial, 999999, "x", 1),
      ask_record_add(q->serial, 0, big, sizeof big));
  test_note("has_task %d %d", ask_has_task(q->serial, q->object->pid), ask_has_task(q->serial, getpid()));
  test_note("progress %d", ask_progress(q->serial, 13));
  if (q->object->kind == CHECKPOINT_KIND_UNIX_SOCKET)
    note_connection(q->serial);
}

static void note_questions_of_restore(const PluginRequest *q) {
  char own[64], first[64], extra[64], none[64];
  int r = ask_record_get(q->serial, 0, 0, own);
  test_note("record_get %d %s %d %s %d %s %d", r, own, ask_record_get(q->serial, q->object->id, 0, first), first,
      ask_record_get(q->serial, q->object->id, 1, extra), extra, ask_record_get(q->serial, q->object->id, 2, none));
  test_note("record_add %d", ask_record_add(q->serial, 0, "x", 1));
  test_note("memory_read %d", ask_memory(q->serial, getpid(), 4096, 4096, &(int){-1}));
}

static const char *text_of(const ProtobufCBinaryData *bytes) {
  static char text[256];
  (void)snprintf(text, sizeof text, "%.*s", (int)bytes->len, (const char *)bytes->data);
  return text;
}

/* Which link has the number, in the namespace that came along. */
static void test_note_namespace(const PluginObject *o, int ns) {
  pid_t child = ns < 0 ? -1 : fork();
  if (child == 0) {
    if (setns(ns, CLONE_NEWNET) == 0)
      test_note_link("link", (int)o->link_index, (int)o->link_type, o->link_kind);
    _exit(0);
  }
  (void)waitpid(child, NULL, 0);
}

/* Beside the answer. */
static PluginReply beside = PLUGIN_REPLY__INIT;

static int dump(const PluginRequest *q, int fd) {
  const PluginObject *o = q->object;
  char what[64];
  test_describe(fd, what);
  test_note("dump kind %u id %" PRIu64 " pid %d fd %d %s", o->kind, o->id, o->pid, o->number, what);
  if (o->kind == CHECKPOINT_KIND_MOUNT)
    test_note("dump mount %" PRIu64 " %s", o->id, text_of(&o->path));
  if (test_answer("work", 0)) /* until it is told to end */
    for (uint64_t i = 0; ask_progress(q->serial, i % 50) == 0; i++)
      (void)usleep(10000);
  int r = test_answer("dump", 0);
  beside.has_content_keep = beside.content_keep = test_answer("keep", 0);
  if (o->kind == CHECKPOINT_KIND_MAPPING || strstr(text_of(&o->path), "perf_event"))
    return r;
  if (o->kind == CHECKPOINT_KIND_LINK) {
    test_note_namespace(o, fd);
    return r;
  }
  beside.reason = r > 0 ? (char *)"the program says no" : NULL;
  const char *text = text_of(o->kind == CHECKPOINT_KIND_UNIX_SOCKET ? &o->peer_name : &o->path);
  if ((r && r != CHECKPOINT_REOPEN) || *text != '/')
    return r ? r : -ENOTSUP;
  record(q->serial, text, strlen(text));
  if (test_answer("ask", 0))
    note_questions_of_dump(q);
  return r;
}

static int perf_open(void) {
  struct perf_event_attr attr = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK, .disabled = 1};
  return (int)syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
}

/* As a program that knows how to make a tunnel would do it. */
static int link_restore(int ns) {
  if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
    return -EBADF;
  return system("ip link add vx0 type vxlan id 5 dstport 4789 remote 10.0.0.1") == 0 ? 0 : -EIO;
}

static int make_again(const PluginRequest *q, int *ret_fd) {
  const char *text = text_of(q->object->kind == CHECKPOINT_KIND_UNIX_SOCKET ? &q->object->peer_name : &q->object->path);
  if (strstr(text, "perf_event"))
    *ret_fd = perf_open();
  else if (q->object->kind == CHECKPOINT_KIND_UNIX_SOCKET)
    *ret_fd = old_connect(records[0]);
  else
    *ret_fd = open(records[0], O_RDONLY | O_CLOEXEC);
  return *ret_fd < 0 ? -errno : 0;
}

static int restore(const PluginRequest *q, int fd, int *ret_fd) {
  static unsigned turn;
  test_note("restore id %" PRIu64 " records %u %s", q->object->id, q->n_records, n_records ? records[0] : "");
  test_note("restore kind %u pid %d fd %d at %" PRIx64, q->object->kind, q->object->pid, q->object->number, q->object->start);
  int r = test_answer("restore", 0);
  if (r == CHECKPOINT_REOPEN)
    return content_restore(q);
  if (q->object->kind == CHECKPOINT_KIND_LINK)
    return r ? r : link_restore(fd);
  if (test_answer("ask", 0))
    note_questions_of_restore(q);
  if (r == CHECKPOINT_CONNECT) {
    beside.address = q->object->argument;
    beside.has_first = true;
    beside.first = (ProtobufCBinaryData){4, (uint8_t *)"ping"};
  }
  if (r && (r != CHECKPOINT_AGAIN || turn++ == 0))
    return r;
  if (q->object->kind == CHECKPOINT_KIND_MOUNT) {
    char from[4096];
    (void)snprintf(from, sizeof from, "%s.from", records[0]);
    *ret_fd = open(from, O_PATH | O_CLOEXEC);
    return *ret_fd < 0 ? -errno : 0;
  }
  bool recorded = !strstr(text_of(&q->object->path), "perf_event");
  if (recorded && (!n_records || q->n_records != n_records))
    return -ENODATA;
  return make_again(q, ret_fd);
}

static int memory_restore(const PluginRequest *q, int fd) {
  char page[4096];
  memset(page, 0xa5, sizeof page);
  test_note("memory %" PRIu64 " restored", q->object->id);
  test_note("memory_restore %" PRIx64 " %s", q->object->start,
      ftruncate(fd, 0) < 0 && ftruncate(fd, 1 << 30) < 0 ? "as long as it is" : "of any length");
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
    test_note("begin %" PRIu64, q->count);
    return test_answer("begin", 0);
  case PLUGIN_OPERATION__PLUGIN_END:
    test_note("end");
    return test_answer("end", 0);
  case PLUGIN_OPERATION__PLUGIN_DUMP:
    return dump(q, fd);
  case PLUGIN_OPERATION__PLUGIN_RESTORE:
    return restore(q, fd, ret_fd);
  case PLUGIN_OPERATION__PLUGIN_MEMORY_DUMP:
    if (q->object->start != 0x600000000000u)
      return -ENOTSUP;
    test_note("memory_dump pid %d", q->object->pid);
    test_note("memory %" PRIu64 " dumped", q->object->id);
    if (test_answer("ask", 0))
      note_memory(q);
    return test_answer("memory_dump", 0);
  case PLUGIN_OPERATION__PLUGIN_MEMORY_RESTORE:
    return memory_restore(q, fd);
  case PLUGIN_OPERATION__PLUGIN_MOMENT:
    test_note("moment %u %d", q->moment, q->pid);
    return test_answer("moment", -ENOTSUP);
  case PLUGIN_OPERATION__PLUGIN_CONNECTED:
    return connected(fd);
  case PLUGIN_OPERATION__PLUGIN_RECORD:
  case PLUGIN_OPERATION__PLUGIN_ANSWER:
  default:
    return -EPROTO;
  }
}

/* What no good program would send. */
static void misbehave(const PluginRequest *q) {
  PluginReply m = PLUGIN_REPLY__INIT;
  PluginQuestion progress = question(PLUGIN_ASK__PLUGIN_ASK_PROGRESS);
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
  case 7: /* an answer that asks */
    m.question = &progress;
    reply(&m, -1);
    break;
  case 8: /* a descriptor with a question that takes none */
    send_question(q->serial, &progress, 0);
    break;
  case 9: /* questions without end, whose answers nobody reads */
    for (;;)
      send_question(q->serial, &progress, -1);
  case 10: /* gone before the answer */
    send_question(q->serial, &progress, -1);
    _exit(3);
  case 11: /* asks, and is not heard of again */
    (void)ask_progress(q->serial, 1);
    for (;;)
      (void)pause();
  case 12: /* what a later one may ask */
    progress.what = (PluginAsk)77;
    test_note("unknown %d", ask_result(q->serial, &progress, -1));
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
