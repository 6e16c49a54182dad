/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Plugins that are programs of their own: the calls of checkpoint-plugin.h as messages (proto/plugin.proto) over a
 * SOCK_SEQPACKET socket, descriptors by SCM_RIGHTS. Whatever such a program does, only its answer can fail the job: it
 * is waited for no longer than its deadline after each packet, what it sends is checked, and it is killed at the end.
 * What it asks before it answers is questions.c.
 */

#include "plugin-process.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PACKET_MAX (256 * 1024)
#define PACKETS_PER_CALL 10000
#define QUESTIONS_PER_CALL 1000000 /* of records, one by one */
#define POLL_MS 20
#define GOODBYE_USEC (2 * G_USEC_PER_SEC)
#define SOCKET_FD 3

typedef struct Exchange {
  Plugin *p;
  PluginCall *call;
  gint64 deadline_usec; /* after each packet */
  gint64 end;
} Exchange;

/* --- the program --- */

static char *wait_text(int status) {
  if (WIFSIGNALED(status))
    return g_strdup_printf("the program was killed by signal %d (%s)", WTERMSIG(status), g_strsignal(WTERMSIG(status)));
  if (WEXITSTATUS(status) == 127)
    return g_strdup("the program could not be executed");
  return g_strdup_printf("the program ended with status %d", WEXITSTATUS(status));
}

/* Kills it, if it has not ended, and its group. Its end is the trouble if there is none yet. */
static void program_end(Plugin *p, gint64 patience_usec) {
  Process *x = p->self;
  int status = 0;
  if (x->fd >= 0)
    (void)close(x->fd);
  x->fd = -1;
  if (x->pid <= 0)
    return;
  gint64 end = g_get_monotonic_time() + patience_usec;
  pid_t got;
  while ((got = waitpid(x->pid, &status, WNOHANG)) == 0 && g_get_monotonic_time() < end)
    g_usleep(1000);
  (void)kill(-x->pid, SIGKILL);
  if (got == 0) {
    (void)kill(x->pid, SIGKILL);
    got = waitpid(x->pid, &status, 0);
  }
  if (got == x->pid && !p->trouble)
    p->trouble = wait_text(status);
  x->pid = 0;
}

static void program_exec(const Process *x, int socket_fd) {
  char *const argv[] = {x->program, NULL};
  char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LANG=C.UTF-8";
  char *const environment[] = {path, lang, NULL};
  sigset_t none;
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)setpgid(0, 0);
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  for (int i = 1; i < NSIG; i++)
    (void)signal(i, SIG_DFL);
  int null_fd = open("/dev/null", O_RDWR);
  if (socket_fd == SOCKET_FD)
    (void)fcntl(SOCKET_FD, F_SETFD, 0);
  if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 ||
      (socket_fd != SOCKET_FD && dup2(socket_fd, SOCKET_FD) < 0) || chdir("/") < 0)
    _exit(126);
  (void)close_range(SOCKET_FD + 1, ~0U, 0);
  (void)execve(x->program, argv, environment);
  _exit(127);
}

static int program_start(Plugin *p) {
  Process *x = p->self;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return -errno;
  x->pid = fork();
  if (x->pid == 0)
    program_exec(x, pair[1]);
  int r = x->pid < 0 ? -errno : 0;
  (void)close(pair[1]);
  x->fd = pair[0];
  if (r < 0)
    program_end(p, 0);
  return r;
}

/* --- packets --- */

static int trouble(Plugin *p, const char *text) {
  g_free(p->trouble);
  p->trouble = g_strdup(text);
  return -EPROTO;
}

static int send_packet(Plugin *p, PluginRequest *m, int fd) {
  Process *x = p->self;
  size_t size = plugin_request__get_packed_size(m);
  g_autofree guint8 *bytes = g_malloc(size);
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec iov = {.iov_base = bytes, .iov_len = plugin_request__pack(m, bytes)};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (fd >= 0) {
    msg.msg_control = &control;
    msg.msg_controllen = sizeof control.space;
    control.header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
  }
  gint64 end = g_get_monotonic_time() + x->deadline_usec;
  for (;;) {
    ssize_t n = sendmsg(x->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
      return 0;
    if (errno == EPIPE || errno == ECONNRESET)
      return -EPIPE;
    if (errno != EAGAIN && errno != EINTR)
      return -errno;
    if (g_get_monotonic_time() > end)
      return -ETIMEDOUT;
    struct pollfd out = {.fd = x->fd, .events = POLLOUT};
    (void)poll(&out, 1, POLL_MS);
  }
}

/* All descriptors of a packet but the first are closed. */
static int keep_one(struct msghdr *msg, size_t *ret_n) {
  int kept = -1;
  *ret_n = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      if ((*ret_n)++)
        (void)close(fd);
      else
        kept = fd;
    }
  }
  return kept;
}

static int receive_packet(Plugin *p, PluginReply **ret_reply, int *ret_fd) {
  Process *x = p->self;
  g_autofree guint8 *bytes = g_malloc(PACKET_MAX);
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(8 * sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = bytes, .iov_len = PACKET_MAX};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
  size_t n_fds = 0;
  ssize_t n = recvmsg(x->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0)
    return errno == ECONNRESET ? -EPIPE : -errno;
  *ret_fd = keep_one(&msg, &n_fds);
  if (n == 0 && *ret_fd < 0)
    return -EPIPE;
  *ret_reply =
      msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || n_fds > 1 ? NULL : plugin_reply__unpack(NULL, (size_t)n, bytes);
  return *ret_reply ? 0 : trouble(p, "what it sent cannot be understood");
}

/* Waits for one packet until the deadline, looking after the job meanwhile. */
static int wait_packet(Exchange *e, PluginReply **ret_reply, int *ret_fd) {
  Process *x = e->p->self;
  for (;;) {
    if (e->call->callback != PLUGIN_CALL_FINI && !job_poll(e->p->set->job, NULL))
      return -ECANCELED;
    int r = receive_packet(e->p, ret_reply, ret_fd);
    if (r != -EAGAIN && r != -EINTR)
      return r;
    if (g_get_monotonic_time() > e->end) {
      g_free(e->p->trouble);
      e->p->trouble = g_strdup_printf("no answer within %" G_GINT64_FORMAT " ms", e->deadline_usec / 1000);
      return -ETIMEDOUT;
    }
    struct pollfd in = {.fd = x->fd, .events = POLLIN};
    (void)poll(&in, 1, POLL_MS);
  }
}

/* --- calls --- */

static int take_news(Exchange *e, const PluginReply *m) {
  Plugin *p = e->p;
  if (m->log) {
    g_autofree char *line = g_utf8_make_valid(m->log->line, -1);
    plugin_log(p, (int)MIN(m->log->priority, 7), line);
  }
  if (m->progress)
    plugin_report(p, "progress", 0, "progress", NULL, m->progress->done, m->progress->total);
  if (!m->has_record)
    return 0;
  int r = records_add(p, e->call->object ? e->call->object->id : 0, m->record.data, m->record.len);
  if (r == -E2BIG)
    (void)trouble(p, "a record of more than 64 KiB");
  if (r == -EROFS)
    (void)trouble(p, "a record, though this is no dump");
  return r;
}

static int answer_question(Exchange *e, const PluginQuestion *q, int fd) {
  PluginRequest m = PLUGIN_REQUEST__INIT;
  PluginContent content = PLUGIN_CONTENT__INIT;
  int given = -1;
  if (fd >= 0 && !question_takes_descriptor(q))
    return trouble(e->p, "a descriptor came where none belongs");
  m.serial = ((Process *)e->p->self)->serial;
  question_answer(e->p, q, fd, &m, &content, &given);
  int r = send_packet(e->p, &m, given);
  if (given >= 0)
    (void)close(given);
  return r < 0 ? r : 1;
}

/* Of a call that was given up when the job ended. */
static bool is_late(const Exchange *e, guint32 serial, guint32 expected) {
  return e->call->callback == PLUGIN_CALL_FINI && serial < expected;
}

/* What a packet means: > 0: go on waiting. */
static int take_packet(Exchange *e, const PluginReply *m, guint32 serial, int *fd, int *ret_status) {
  bool final = m->has_status, restores = e->call->callback == PLUGIN_CALL_RESTORE;
  if (is_late(e, m->serial, serial))
    return 1;
  if (m->serial != serial)
    return trouble(e->p, "it answered another request");
  if (m->question)
    return final ? trouble(e->p, "it asks and answers at once") : answer_question(e, m->question, *fd);
  int r = take_news(e, m);
  if (r < 0)
    return r;
  if (m->reason || m->cure)
    services_explain(e->p, m->reason, m->cure);
  if (restores && (m->address || m->has_first)) {
    r = services_connect_to(e->p, m->address, m->first.data, m->has_first ? m->first.len : 0);
    if (r < 0)
      return trouble(e->p, "an address that is none, or too much to say there first");
  }
  if (m->content_keep && e->call->callback == PLUGIN_CALL_DUMP) {
    if (e->p->host.content_keep(&e->p->host) < 0)
      return trouble(e->p, "it wants the content kept of what is no regular file");
  }
  bool gives = final && restores && m->status == 0 && e->call->object->kind != CHECKPOINT_KIND_LINK;
  if ((*fd >= 0) != gives)
    return trouble(e->p, gives ? "the answer came without a descriptor" : "a descriptor came where none belongs");
  if (!final)
    return 1;
  *ret_status = m->status;
  if (gives) {
    e->call->fd = *fd;
    *fd = -1;
    e->call->offset = m->has_offset ? m->offset : e->call->offset;
  }
  return 0;
}

/* Late packets are no signs of life. */
static int wait_answer(Exchange *e, guint32 serial, int *ret_status) {
  bool questions = true;
  for (int n = 0, asked = 0; n < PACKETS_PER_CALL && asked < QUESTIONS_PER_CALL; questions ? asked++ : n++) {
    PluginReply *m = NULL;
    int fd = -1;
    if (!e->end || e->call->callback != PLUGIN_CALL_FINI)
      e->end = g_get_monotonic_time() + e->deadline_usec;
    int r = wait_packet(e, &m, &fd);
    questions = m && m->question;
    if (r == 0)
      r = take_packet(e, m, serial, &fd, ret_status);
    if (m)
      plugin_reply__free_unpacked(m, NULL);
    if (fd >= 0)
      (void)close(fd);
    if (r <= 0)
      return r;
  }
  return trouble(e->p, "it sends packets without end");
}

static int send_records(Plugin *p, const PluginCall *call) {
  for (guint i = 0; call->records && i < call->records->len; i++) {
    PluginRequest m = PLUGIN_REQUEST__INIT;
    gsize size = 0;
    m.serial = ((Process *)p->self)->serial;
    m.operation = PLUGIN_OPERATION__PLUGIN_RECORD;
    m.has_record = m.has_record_id = true;
    m.record.data = (guint8 *)g_bytes_get_data(call->records->pdata[i], &size);
    m.record.len = size;
    m.record_id = call->object ? call->object->id : 0;
    int r = send_packet(p, &m, -1);
    if (r < 0)
      return r;
  }
  return 0;
}

static void request_fill(const Plugin *p, const PluginCall *call, PluginRequest *m, PluginObject *object) {
  static const PluginOperation operations[PLUGIN_N_CALLS] = {PLUGIN_OPERATION__PLUGIN_INIT,
      PLUGIN_OPERATION__PLUGIN_FINI, PLUGIN_OPERATION__PLUGIN_BEGIN, PLUGIN_OPERATION__PLUGIN_END,
      PLUGIN_OPERATION__PLUGIN_DUMP, PLUGIN_OPERATION__PLUGIN_RESTORE, PLUGIN_OPERATION__PLUGIN_MEMORY_DUMP,
      PLUGIN_OPERATION__PLUGIN_MEMORY_RESTORE, PLUGIN_OPERATION__PLUGIN_MOMENT, PLUGIN_OPERATION__PLUGIN_CONNECTED};
  bool init = call->callback == PLUGIN_CALL_INIT, moment = call->callback == PLUGIN_CALL_MOMENT;
  m->operation = operations[call->callback];
  m->serial = ((const Process *)p->self)->serial;
  m->has_stage = m->has_abi = m->has_caller = m->has_revision = init;
  m->revision = CHECKPOINT_PLUGIN_REVISION;
  m->caller = plugins_caller(p->set);
  m->stage = (guint32)p->set->stage;
  m->abi = CHECKPOINT_PLUGIN_ABI;
  m->name = init ? p->name : NULL;
  m->has_result = call->callback == PLUGIN_CALL_FINI, m->result = call->result;
  m->has_count = call->callback == PLUGIN_CALL_BEGIN, m->count = call->count;
  m->has_moment = m->has_pid = moment, m->moment = (guint32)call->moment, m->pid = (int)call->pid;
  m->has_n_records = call->records != NULL, m->n_records = call->records ? call->records->len : 0;
  if (!call->object)
    return;
  object_to_image(call->object, object);
  m->object = object;
}

static int fd_to_send(const Plugin *p, const PluginCall *call) {
  if (call->callback == PLUGIN_CALL_INIT)
    return p->set->images_fd;
  bool link = call->callback == PLUGIN_CALL_RESTORE && call->object->kind == CHECKPOINT_KIND_LINK;
  if (call->callback == PLUGIN_CALL_DUMP || link)
    return call->object->fd;
  bool lent = call->callback == PLUGIN_CALL_MEMORY_RESTORE || call->callback == PLUGIN_CALL_CONNECTED;
  return lent ? call->fd : -1;
}

/* *ret_broken: there was no answer, and there is nobody to talk to any more. What a program answers is its own affair. */
static int exchange(Plugin *p, PluginCall *call, bool *ret_broken) {
  Process *x = p->self;
  PluginRequest m = PLUGIN_REQUEST__INIT;
  PluginObject object;
  bool fini = call->callback == PLUGIN_CALL_FINI;
  Exchange e = {.p = p, .call = call, .deadline_usec = fini ? MIN(GOODBYE_USEC, x->deadline_usec) : x->deadline_usec};
  int status = 0;
  x->serial++;
  request_fill(p, call, &m, &object);
  int r = send_records(p, call);
  if (r == 0)
    r = send_packet(p, &m, fd_to_send(p, call));
  if (r == 0)
    r = wait_answer(&e, x->serial, &status);
  *ret_broken = r == -EPIPE || r == -ETIMEDOUT || r == -EPROTO || p->trouble;
  return r < 0 ? r : status;
}

static int process_call(Plugin *p, PluginCall *call) {
  Process *x = p->self;
  int r = 0;
  if (call->callback == PLUGIN_CALL_INIT) {
    plugin_host_init(p);
    r = program_start(p);
  }
  if (r < 0)
    return r;
  if (x->fd < 0)
    return -EPIPE;
  bool broken = false;
  r = exchange(p, call, &broken);
  if (r < 0 && broken) {
    program_end(p, r == -EPIPE ? GOODBYE_USEC / 4 : 0);
    p->begun = false; /* there is nobody to say goodbye to */
  }
  if (call->callback == PLUGIN_CALL_FINI)
    program_end(p, GOODBYE_USEC);
  if (call->callback == PLUGIN_CALL_FINI && r >= 0)
    g_clear_pointer(&p->trouble, g_free);
  return r;
}

static const char *process_callback(const Plugin *p, const PluginCall *call) {
  const ProtobufCEnumValue *v = NULL;
  PluginRequest m = PLUGIN_REQUEST__INIT;
  PluginObject object;
  guint32 kinds = p->kinds;
  request_fill(p, call, &m, &object);
  v = protobuf_c_enum_descriptor_get_value(&plugin_operation__descriptor, (int)m.operation);
  bool meant = (call->callback != PLUGIN_CALL_MEMORY_DUMP && call->callback != PLUGIN_CALL_MEMORY_RESTORE) ||
               kinds & CHECKPOINT_KIND_MEMORY;
  return meant && v ? v->name : NULL;
}

static void process_close(Plugin *p) {
  Process *x = p->self;
  if (!x)
    return;
  program_end(p, 0);
  g_free(x->program);
  g_free(x);
}

const PluginDoor process_door = {
    .name = "process", .call = process_call, .callback = process_callback, .close = process_close, .in_process = false};
