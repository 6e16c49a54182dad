/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sockopts.h"
#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/time.h>

#ifndef SO_GET_FILTER
#define SO_GET_FILTER SO_ATTACH_FILTER
#endif

/* The options that are one integer and one field. */
typedef struct IntOption {
  int level, option;
  size_t has, value; /* offsets in SkOptsEntry */
  bool is_bool;      /* the field is a protobuf_c_boolean, else uint32 */
  bool always;       /* written also when 0, as CRIU does */
  int families;      /* 0: all; else only this one */
  int fresh;         /* what a new socket has; -1: something else, ask */
} IntOption;

#define FIELD(name) offsetof(SkOptsEntry, has_##name), offsetof(SkOptsEntry, name)

static const IntOption int_options[] = {
    {SOL_SOCKET, SO_REUSEADDR, FIELD(reuseaddr), true, true, 0, -1},
    {SOL_SOCKET, SO_PRIORITY, FIELD(so_priority), false, true, 0},
    {SOL_SOCKET, SO_RCVLOWAT, FIELD(so_rcvlowat), false, true, 0, 1},
    {SOL_SOCKET, SO_MARK, FIELD(so_mark), false, false, 0},
    {SOL_SOCKET, SO_PASSCRED, FIELD(so_passcred), true, true, AF_UNIX},
    {SOL_SOCKET, SO_PASSSEC, FIELD(so_passsec), true, true, AF_UNIX},
    {SOL_SOCKET, SO_DONTROUTE, FIELD(so_dontroute), true, true, 0},
    {SOL_SOCKET, SO_NO_CHECK, FIELD(so_no_check), true, true, 0},
    {SOL_SOCKET, SO_REUSEPORT, FIELD(so_reuseport), true, true, 0},
    {SOL_SOCKET, SO_BROADCAST, FIELD(so_broadcast), true, true, 0},
    {SOL_SOCKET, SO_KEEPALIVE, FIELD(so_keepalive), true, true, 0},
    {SOL_SOCKET, SO_OOBINLINE, FIELD(so_oobinline), false, true, 0},
};

static const IntOption tcp_options[] = {
    {IPPROTO_TCP, TCP_KEEPCNT, FIELD(tcp_keepcnt), false, false, 0, -1},
    {IPPROTO_TCP, TCP_KEEPIDLE, FIELD(tcp_keepidle), false, false, 0, -1},
    {IPPROTO_TCP, TCP_KEEPINTVL, FIELD(tcp_keepintvl), false, false, 0, -1},
};

CkptSocket *socket_extra(Checkpoint *checkpoint, guint32 file_id) {
  CkptSocket *s = checkpoint_find_socket(checkpoint, file_id);
  if (s)
    return s;
  s = MESSAGE_NEW(CkptSocket, ckpt_socket__init);
  s->file_id = file_id;
  checkpoint_add_socket(checkpoint, s);
  return s;
}

int sockopt_get(int fd, int level, int option, int fallback) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, option, &value, &size) == 0 ? value : fallback;
}

static void field_set(SkOptsEntry *opts, const IntOption *o, int value) {
  char *base = (char *)opts;
  *(protobuf_c_boolean *)(base + o->has) = true;
  if (o->is_bool)
    *(protobuf_c_boolean *)(base + o->value) = value != 0;
  else
    *(uint32_t *)(base + o->value) = (uint32_t)value;
}

static bool field_get(const SkOptsEntry *opts, const IntOption *o, int *ret_value) {
  const char *base = (const char *)opts;
  if (!*(const protobuf_c_boolean *)(base + o->has))
    return false;
  *ret_value = o->is_bool ? *(const protobuf_c_boolean *)(base + o->value) : (int)*(const uint32_t *)(base + o->value);
  return true;
}

static bool collect_filter(int fd, SkOptsEntry *opts, GError **error) {
  socklen_t n = 0; /* counted in instructions */
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0) {
    if (errno == ENOPROTOOPT || errno == EOPNOTSUPP || errno == EACCES /* sockopts_check() */)
      return true;
    return engine_fail_errno(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, errno, "Cannot read a socket filter");
  }
  if (!n)
    return true;
  g_autofree struct sock_filter *filter = g_new0(struct sock_filter, n);
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, filter, &n) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read a socket filter");
  opts->n_so_filter = n;
  opts->so_filter = g_new0(uint64_t, n);
  memcpy(opts->so_filter, filter, n * sizeof *filter);
  return true;
}

static void collect_times(int fd, SkOptsEntry *opts) {
  struct timeval send = {0}, receive = {0};
  socklen_t size = sizeof send;
  (void)getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, &size);
  size = sizeof receive;
  (void)getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, &size);
  opts->so_snd_tmo_sec = (guint64)send.tv_sec;
  opts->so_snd_tmo_usec = (guint64)send.tv_usec;
  opts->so_rcv_tmo_sec = (guint64)receive.tv_sec;
  opts->so_rcv_tmo_usec = (guint64)receive.tv_usec;
}

static void collect_others(int fd, SkOptsEntry *opts) {
  char device[IFNAMSIZ + 1] = "";
  socklen_t size = IFNAMSIZ;
  if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &size) == 0 && size > 0 && device[0])
    opts->so_bound_dev = g_strdup(device);
  struct linger linger = {0};
  size = sizeof linger;
  if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff) {
    opts->has_so_linger = true;
    opts->so_linger = (guint32)linger.l_linger;
  }
  int lock = sockopt_get(fd, SOL_SOCKET, SO_BUF_LOCK, -1);
  opts->has_so_buf_lock = lock >= 0;
  opts->so_buf_lock = lock >= 0 ? (guint32)lock : 0;
}

SkOptsEntry *sockopts_collect(int fd, int family, int protocol, GError **error) {
  SkOptsEntry *opts = MESSAGE_NEW(SkOptsEntry, sk_opts_entry__init);
  opts->so_sndbuf = (guint32)sockopt_get(fd, SOL_SOCKET, SO_SNDBUF, 0);
  opts->so_rcvbuf = (guint32)sockopt_get(fd, SOL_SOCKET, SO_RCVBUF, 0);
  collect_times(fd, opts);
  for (size_t i = 0; i < G_N_ELEMENTS(int_options); i++) {
    const IntOption *o = &int_options[i];
    int value = o->families && o->families != family ? -1 : sockopt_get(fd, o->level, o->option, -1);
    if (value > 0 || (value == 0 && o->always))
      field_set(opts, o, value);
  }
  for (size_t i = 0; protocol == IPPROTO_TCP && opts->so_keepalive && i < G_N_ELEMENTS(tcp_options); i++)
    field_set(opts, &tcp_options[i], sockopt_get(fd, tcp_options[i].level, tcp_options[i].option, 0));
  collect_others(fd, opts);
  if (!collect_filter(fd, opts, error)) {
    sk_opts_entry__free_unpacked(opts, NULL);
    return NULL;
  }
  return opts;
}

/* --- restore --- */

static bool set_int(int fd, int level, int option, int value, GError **error) {
  if (setsockopt(fd, level, option, &value, sizeof value) == 0)
    return true;
  return engine_fail_errno(
      error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the socket option %d/%d to %d", level, option, value);
}

static bool restore_ints(int fd, const SkOptsEntry *opts, const IntOption *table, size_t n, GError **error) {
  for (size_t i = 0; i < n; i++) {
    const IntOption *o = &table[i];
    int value = 0;
    if (!field_get(opts, o, &value) || value == o->fresh)
      continue;
    if (value != sockopt_get(fd, o->level, o->option, 0) && !set_int(fd, o->level, o->option, value, error))
      return false;
  }
  return true;
}

/* The kernel doubles what it is given, and reports the double. */
static bool restore_buffer(int fd, int option, int force, guint32 size, GError **error) {
  if ((guint32)sockopt_get(fd, SOL_SOCKET, option, 0) == size)
    return true;
  int half = (int)(size / 2);
  if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof half) == 0)
    return true;
  return set_int(fd, SOL_SOCKET, option, half, error);
}

static bool restore_buffers(int fd, const SkOptsEntry *opts, GError **error) {
  if (!restore_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, opts->so_sndbuf, error) ||
      !restore_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, opts->so_rcvbuf, error))
    return false;
  if (!opts->has_so_buf_lock || sockopt_get(fd, SOL_SOCKET, SO_BUF_LOCK, -1) == (int)opts->so_buf_lock)
    return true;
  int lock = (int)opts->so_buf_lock;
  (void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof lock); /* kernels before 5.14 have none */
  return true;
}

static bool restore_time(int fd, int option, guint64 sec, guint64 usec, GError **error) {
  struct timeval value = {.tv_sec = (time_t)sec, .tv_usec = (suseconds_t)usec};
  if ((!sec && !usec) || setsockopt(fd, SOL_SOCKET, option, &value, sizeof value) == 0)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "Cannot set a socket's time-out");
}

static bool restore_others(int fd, const SkOptsEntry *opts, GError **error) {
  struct linger linger = {.l_onoff = 1, .l_linger = (int)opts->so_linger};
  if (opts->has_so_linger && setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set a socket's linger time");
  if (!opts->n_so_filter)
    return true;
  if (opts->n_so_filter > BPF_MAXINSNS)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A socket filter is too long");
  struct sock_fprog program = {.len = (unsigned short)opts->n_so_filter, .filter = (void *)opts->so_filter};
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "Cannot attach a socket filter");
  return true;
}

bool sockopts_restore(int fd, const SkOptsEntry *opts, GError **error) {
  return restore_ints(fd, opts, int_options, G_N_ELEMENTS(int_options), error) &&
         restore_ints(fd, opts, tcp_options, G_N_ELEMENTS(tcp_options), error) && restore_buffers(fd, opts, error) &&
         restore_time(fd, SO_SNDTIMEO, opts->so_snd_tmo_sec, opts->so_snd_tmo_usec, error) &&
         restore_time(fd, SO_RCVTIMEO, opts->so_rcv_tmo_sec, opts->so_rcv_tmo_usec, error) &&
         restore_others(fd, opts, error);
}
