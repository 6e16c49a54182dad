/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tcp-repair.h"
#include "net-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

#define STATE_BIT(s) (1u << (s))
/* The peer's FIN has been received; ours has been sent; ours has been sent and not been acknowledged. */
#define FIN_RECEIVED (STATE_BIT(INET_CLOSE_WAIT) | STATE_BIT(INET_LAST_ACK) | STATE_BIT(INET_CLOSING))
#define FIN_UNACKED (STATE_BIT(INET_FIN_WAIT1) | STATE_BIT(INET_LAST_ACK) | STATE_BIT(INET_CLOSING))
#define FIN_SENT (FIN_UNACKED | STATE_BIT(INET_FIN_WAIT2))
#define CONNECTED (STATE_BIT(INET_ESTABLISHED) | FIN_RECEIVED | FIN_SENT)

#define USER_MSS_MIN 88u /* the kernel's bounds of TCP_MAXSEG */
#define USER_MSS_MAX 32767u
#define CHUNK_BYTES ((size_t)32 * 1024) /* of one send(2) into a queue: what the kernel allocates in one piece */
#define SEGMENT_BYTES_MAX (512 * 1024)  /* the oldest one may be acknowledged in part */
#define BUFFER_MAX (1 << 30)            /* while queues are filled */
#define STATE_PATIENCE_MS 5000
#define TIMEOUT_PATIENCE_MS 10000

guint32 tcp_state(int fd) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : INET_CLOSE;
}

bool tcp_state_is_connected(guint32 state) {
  return state < 32 && STATE_BIT(state) & CONNECTED;
}

int tcp_repair_set(int fd, int mode) {
  return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &mode, sizeof mode) == 0 ? 0 : -errno;
}

static bool fail_step(const char *what, GError **error) {
  int reason = errno;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "TCP repair: cannot %s", what);
}

static bool set_int(int fd, int level, int option, int value, const char *what, GError **error) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0 || fail_step(what, error);
}

static bool get_u32(int fd, int option, guint32 *ret, const char *what, GError **error) {
  socklen_t size = sizeof *ret;
  return getsockopt(fd, IPPROTO_TCP, option, ret, &size) == 0 || fail_step(what, error);
}

static bool choose_queue(int fd, int queue, GError **error) {
  return set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue, "choose a queue", error);
}

/* --- reading --- */

/* As much as there is, @at_least bytes and a little more being expected. NULL with error. */
static GByteArray *peek_all(int fd, size_t at_least, GError **error) {
  GByteArray *bytes = g_byte_array_new();
  for (size_t room = at_least + SEGMENT_BYTES_MAX;; room *= 2) {
    g_byte_array_set_size(bytes, (guint)room);
    ssize_t n = recv(fd, bytes->data, room, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) {
      (void)fail_step("read a queue", error);
      g_byte_array_unref(bytes);
      return NULL;
    }
    if (n < (ssize_t)room) {
      g_byte_array_set_size(bytes, n < 0 ? 0 : (guint)n);
      return bytes;
    }
  }
}

/* A socket may read at a moving place of its own (SO_PEEK_OFF, since Linux 6.9 for TCP). */
static GByteArray *peek_from_start(int fd, size_t at_least, GError **error) {
  int offset = -1, none = -1;
  socklen_t size = sizeof offset;
  bool moves = getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &size) == 0 && offset >= 0 &&
               setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &none, sizeof none) == 0;
  GByteArray *bytes = peek_all(fd, at_least, error);
  if (moves)
    (void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset);
  return bytes;
}

static bool read_received(int fd, TcpStreamEntry *s, GByteArray *queues, GError **error) {
  int waiting = 0;
  if (!choose_queue(fd, TCP_RECV_QUEUE, error) || !get_u32(fd, TCP_QUEUE_SEQ, &s->inq_seq, "read rcv_nxt", error))
    return false;
  if (ioctl(fd, SIOCINQ, &waiting) < 0 || waiting < 0)
    return fail_step("measure the receive queue", error);
  g_autoptr(GByteArray) bytes = peek_from_start(fd, (size_t)waiting, error);
  if (!bytes)
    return false;
  s->inq_len = bytes->len;
  g_byte_array_append(queues, bytes->data, bytes->len);
  return true;
}

/* Lengths of the kernel count a FIN as one; ours are of bytes. */
static bool read_sent(int fd, guint32 state, TcpStreamEntry *s, GByteArray *queues, GError **error) {
  int all = 0, unsent = 0, fin = STATE_BIT(state) & FIN_UNACKED ? 1 : 0;
  if (!choose_queue(fd, TCP_SEND_QUEUE, error) || !get_u32(fd, TCP_QUEUE_SEQ, &s->outq_seq, "read write_seq", error))
    return false;
  if (ioctl(fd, SIOCOUTQ, &all) < 0 || ioctl(fd, SIOCOUTQNSD, &unsent) < 0 || all < fin)
    return fail_step("measure the send queue", error);
  all -= fin;
  unsent = MIN(MAX(unsent - fin, 0), all);
  g_autoptr(GByteArray) bytes = peek_from_start(fd, (size_t)all, error);
  if (!bytes)
    return false;
  if (bytes->len < (guint)all)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED,
        "TCP repair: the send queue holds %u bytes, %d are not acknowledged", bytes->len, all);
  s->outq_len = (guint32)all;
  s->has_unsq_len = true;
  s->unsq_len = (guint32)unsent;
  g_byte_array_append(queues, bytes->data + (bytes->len - (guint)all), (guint)all);
  return true;
}

static bool read_options(int fd, TcpStreamEntry *s, GError **error) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
    return fail_step("read TCP_INFO", error);
  s->opt_mask = info.tcpi_options & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
  s->snd_wscale = info.tcpi_options & TCPI_OPT_WSCALE ? info.tcpi_snd_wscale : 0;
  s->has_rcv_wscale = true;
  s->rcv_wscale = info.tcpi_options & TCPI_OPT_WSCALE ? info.tcpi_rcv_wscale : 0;
  if (!get_u32(fd, TCP_MAXSEG, &s->mss_clamp, "read the maximum segment size", error))
    return false;
  s->has_timestamp = s->opt_mask & TCPI_OPT_TIMESTAMPS;
  return !s->has_timestamp || get_u32(fd, TCP_TIMESTAMP, &s->timestamp, "read the timestamp", error);
}

static void read_window(int fd, TcpStreamEntry *s) {
  struct tcp_repair_window w;
  socklen_t size = sizeof w;
  if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &size) < 0)
    return; /* a restore then asks the peer */
  s->has_snd_wl1 = s->has_snd_wnd = s->has_max_window = s->has_rcv_wnd = s->has_rcv_wup = true;
  s->snd_wl1 = w.snd_wl1;
  s->snd_wnd = w.snd_wnd;
  s->max_window = w.max_window;
  s->rcv_wnd = w.rcv_wnd;
  s->rcv_wup = w.rcv_wup;
}

static void read_delays(int fd, TcpStreamEntry *s) {
  s->has_nodelay = s->nodelay = sockopt_get(fd, IPPROTO_TCP, TCP_NODELAY, -1) > 0;
  s->has_cork = s->cork = sockopt_get(fd, IPPROTO_TCP, TCP_CORK, -1) > 0;
}

TcpStreamEntry *tcp_repair_read(int fd, guint32 state, GBytes **ret_queues, GError **error) {
  TcpStreamEntry *s = MESSAGE_NEW(TcpStreamEntry, tcp_stream_entry__init);
  GByteArray *queues = g_byte_array_new();
  bool ok = read_received(fd, s, queues, error) && read_sent(fd, state, s, queues, error) && read_options(fd, s, error);
  ok = ok && choose_queue(fd, TCP_NO_QUEUE, error);
  if (!ok) {
    g_byte_array_unref(queues);
    tcp_stream_entry__free_unpacked(s, NULL);
    return NULL;
  }
  read_window(fd, s);
  read_delays(fd, s);
  *ret_queues = g_byte_array_free_to_bytes(queues);
  return s;
}

/* --- making --- */

bool tcp_repair_check(const TcpStreamEntry *s, guint32 state, GError **error) {
  if (state == INET_FIN_WAIT2 && s->outq_len)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "A TCP connection has %u bytes to send before an end of stream that was acknowledged", s->outq_len);
  return true;
}

static bool set_sequences(int fd, const TcpConnection *c, GError **error) {
  const TcpStreamEntry *s = c->stream;
  guint32 in = s->inq_seq - s->inq_len - (STATE_BIT(c->state) & FIN_RECEIVED ? 1 : 0);
  guint32 out = s->outq_seq - s->outq_len - (STATE_BIT(c->state) & FIN_SENT ? 1 : 0);
  return choose_queue(fd, TCP_RECV_QUEUE, error) &&
         set_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)in, "set rcv_nxt", error) &&
         choose_queue(fd, TCP_SEND_QUEUE, error) &&
         set_int(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)out, "set write_seq", error) &&
         choose_queue(fd, TCP_NO_QUEUE, error);
}

static bool set_options(int fd, const TcpStreamEntry *s, GError **error) {
  struct tcp_repair_opt options[4];
  size_t n = 0;
  options[n++] = (struct tcp_repair_opt){TCPOPT_MAXSEG, s->mss_clamp};
  if (s->opt_mask & TCPI_OPT_WSCALE)
    options[n++] = (struct tcp_repair_opt){TCPOPT_WINDOW, s->snd_wscale | s->rcv_wscale << 16};
  if (s->opt_mask & TCPI_OPT_SACK)
    options[n++] = (struct tcp_repair_opt){TCPOPT_SACK_PERMITTED, 0};
  if (s->opt_mask & TCPI_OPT_TIMESTAMPS)
    options[n++] = (struct tcp_repair_opt){TCPOPT_TIMESTAMP, 0};
  if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, (socklen_t)(n * sizeof *options)) < 0)
    return fail_step("set the options of the connection", error);
  return !s->has_timestamp || set_int(fd, IPPROTO_TCP, TCP_TIMESTAMP, (int)s->timestamp, "set the timestamp", error);
}

static bool fill_queue(int fd, const guint8 *data, size_t n, const char *what, GError **error) {
  while (n > 0) {
    ssize_t put = send(fd, data, MIN(n, CHUNK_BYTES), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR)
      continue;
    if (put <= 0)
      return fail_step(what, error);
    data += put;
    n -= (size_t)put;
  }
  return true;
}

/* What was sent and what was not are told apart by the mode: in it the kernel takes bytes for sent. */
static bool fill_queues(int fd, const TcpConnection *c, GError **error) {
  const TcpStreamEntry *s = c->stream;
  const guint8 *out = c->queues + s->inq_len;
  size_t unsent = s->has_unsq_len ? s->unsq_len : 0, sent = s->outq_len - unsent;
  if (!choose_queue(fd, TCP_RECV_QUEUE, error) ||
      !fill_queue(fd, c->queues, s->inq_len, "fill the receive queue", error) ||
      !choose_queue(fd, TCP_SEND_QUEUE, error) || !fill_queue(fd, out, sent, "fill the send queue", error))
    return false;
  if (!unsent)
    return true;
  return choose_queue(fd, TCP_NO_QUEUE, error) &&
         (tcp_repair_set(fd, TCP_REPAIR_OFF_NO_WP) == 0 || fail_step("leave the mode", error)) &&
         fill_queue(fd, out + sent, unsent, "fill the send queue", error) &&
         (tcp_repair_set(fd, TCP_REPAIR_ON) == 0 || fail_step("enter the mode again", error));
}

static bool await_state(int fd, guint32 state, GError **error) {
  for (int i = 0; tcp_state(fd) != state; i++) {
    if (i == STATE_PATIENCE_MS)
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED,
          "TCP repair: the connection is in state %u and does not come to state %u (is the network device lo up?)",
          tcp_state(fd), state);
    g_usleep(1000);
  }
  return true;
}

/* The peer's FIN. It acknowledges nothing. */
static bool receive_fin(int fd, const TcpConnection *c, guint32 state, GError **error) {
  const TcpStreamEntry *s = c->stream;
  const TcpSegment fin = {.from = c->remote,
      .to = c->local,
      .seq = s->inq_seq - 1,
      .ack = s->outq_seq - s->outq_len - (STATE_BIT(c->state) & FIN_SENT ? 1 : 0),
      .fin = true};
  return tcp_packet_send(&fin, error) && await_state(fd, state, error);
}

/* In the mode a FIN counts as sent at once; with unsent bytes before it it must not. */
static bool send_fin(int fd, const TcpConnection *c, guint32 state, GError **error) {
  bool queued = c->stream->has_unsq_len && c->stream->unsq_len;
  if (!choose_queue(fd, queued ? TCP_NO_QUEUE : TCP_SEND_QUEUE, error))
    return false;
  if (queued && tcp_repair_set(fd, TCP_REPAIR_OFF_NO_WP) < 0)
    return fail_step("leave the mode", error);
  if (shutdown(fd, SHUT_WR) < 0)
    return fail_step("shut the connection down", error);
  if (queued && tcp_repair_set(fd, TCP_REPAIR_ON) < 0)
    return fail_step("enter the mode again", error);
  return choose_queue(fd, TCP_NO_QUEUE, error) && await_state(fd, state, error);
}

static bool acknowledge_fin(int fd, const TcpConnection *c, GError **error) {
  const TcpSegment ack = {.from = c->remote, .to = c->local, .seq = c->stream->inq_seq, .ack = c->stream->outq_seq};
  return tcp_packet_send(&ack, error) && await_state(fd, INET_FIN_WAIT2, error);
}

static bool close_sides(int fd, const TcpConnection *c, GError **error) {
  switch (c->state) {
  case INET_FIN_WAIT1:
    return send_fin(fd, c, INET_FIN_WAIT1, error);
  case INET_FIN_WAIT2:
    return send_fin(fd, c, INET_FIN_WAIT1, error) && acknowledge_fin(fd, c, error);
  case INET_CLOSING:
    return send_fin(fd, c, INET_FIN_WAIT1, error) && receive_fin(fd, c, INET_CLOSING, error);
  case INET_CLOSE_WAIT:
    return receive_fin(fd, c, INET_CLOSE_WAIT, error);
  case INET_LAST_ACK:
    return receive_fin(fd, c, INET_CLOSE_WAIT, error) && send_fin(fd, c, INET_LAST_ACK, error);
  default:
    return true;
  }
}

/* A socket that is bound to a device does not see what comes in through lo. */
static bool close_sides_unbound(int fd, const TcpConnection *c, GError **error) {
  if (!c->device || c->state == INET_ESTABLISHED)
    return close_sides(fd, c, error);
  if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0) < 0)
    return fail_step("unbind the connection from its network device", error);
  return close_sides(fd, c, error) &&
         (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, c->device, (socklen_t)strlen(c->device)) == 0 ||
             fail_step("bind the connection to its network device", error));
}

/* @before_fin: the receive window must have room for the peer's FIN, and cannot have been updated behind it. */
static bool set_window(int fd, const TcpConnection *c, bool before_fin, GError **error) {
  const TcpStreamEntry *s = c->stream;
  if (!s->has_snd_wnd || !s->has_rcv_wnd || !s->has_max_window)
    return true;
  struct tcp_repair_window w = {.snd_wl1 = s->snd_wl1,
      .snd_wnd = s->snd_wnd,
      .max_window = MAX(s->max_window, s->snd_wnd),
      .rcv_wnd = s->rcv_wnd,
      .rcv_wup = s->rcv_wup};
  if (before_fin) {
    w.rcv_wup = s->inq_seq - 1;
    w.rcv_wnd = MAX(w.rcv_wnd, 65536);
    w.snd_wl1 = w.rcv_wup;
  }
  return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof w) == 0 || fail_step("set the window", error);
}

/* What connect(2) finds here is the size of the segments from then on: that of the peer, which TCP_REPAIR_OPTIONS sets
 * later, does not raise it any more. */
static void set_segment_size(int fd, int size) {
  (void)setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &size, sizeof size);
}

static bool connect_silently(int fd, const TcpConnection *c, GError **error) {
  if (!set_sequences(fd, c, error))
    return false;
  set_segment_size(fd, (int)MIN(MAX(c->stream->mss_clamp, USER_MSS_MIN), USER_MSS_MAX));
  if (connect(fd, &c->remote->sa, c->address_size) == 0) {
    set_segment_size(fd, 0);
    return true;
  }
  if (errno == EADDRNOTAVAIL || errno == EADDRINUSE)
    return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
        "A socket of the same connection exists: the process that was dumped, or another restore of it, still runs");
  if (errno == ENETUNREACH || errno == EHOSTUNREACH)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "There is no way to the peer");
  return fail_step("connect", error);
}

/* Buffers grow for as long as they are filled; the caller has set their sizes and gets them back. */
static void set_buffers(int fd, int send_bytes, int receive_bytes) {
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof send_bytes);
  (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes);
}

bool tcp_repair_restore(int fd, const TcpConnection *c, GError **error) {
  bool fin = STATE_BIT(c->state) & FIN_RECEIVED;
  int send_bytes = sockopt_get(fd, SOL_SOCKET, SO_SNDBUF, -1),
      receive_bytes = sockopt_get(fd, SOL_SOCKET, SO_RCVBUF, -1);
  int lock = sockopt_get(fd, SOL_SOCKET, SO_BUF_LOCK, -1);
  if (!connect_silently(fd, c, error) || !set_options(fd, c->stream, error))
    return false;
  set_buffers(fd, BUFFER_MAX, BUFFER_MAX);
  bool ok = fill_queues(fd, c, error) && choose_queue(fd, TCP_NO_QUEUE, error) &&
            (!fin || set_window(fd, c, true, error)) && close_sides_unbound(fd, c, error) &&
            set_window(fd, c, false, error);
  set_buffers(fd, send_bytes / 2, receive_bytes / 2);
  if (lock >= 0)
    (void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof lock);
  return ok;
}

/* --- connections that have ended --- */

TcpStreamEntry *tcp_repair_read_ended(int fd, bool fin, GBytes **ret_queue, GError **error) {
  g_autoptr(GByteArray) bytes = NULL;
  int waiting = 0;
  if (ioctl(fd, SIOCINQ, &waiting) < 0 || waiting < 0) {
    (void)fail_step("measure the receive queue", error);
    return NULL;
  }
  /* A peek at an empty queue would take the error. */
  bytes = waiting ? peek_from_start(fd, (size_t)waiting, error) : g_byte_array_new();
  if (!bytes)
    return NULL;
  TcpStreamEntry *s = MESSAGE_NEW(TcpStreamEntry, tcp_stream_entry__init);
  if (!read_options(fd, s, error)) {
    tcp_stream_entry__free_unpacked(s, NULL);
    return NULL;
  }
  s->mss_clamp = MIN(MAX(s->mss_clamp, USER_MSS_MIN), USER_MSS_MAX);
  s->inq_len = bytes->len;
  s->inq_seq = 1 + bytes->len + fin;
  s->outq_seq = 1;
  read_delays(fd, s);
  *ret_queue = g_byte_array_free_to_bytes(g_steal_pointer(&bytes));
  return s;
}

/* What nobody listens for is answered by a reset; of packets to the socket only those with our mark come through. */
static bool hear_only_ours(int fd, GError **error) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (guint32)(SKF_AD_OFF + SKF_AD_MARK)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NET_LOCK_MARK, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, G_MAXUINT32),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  const struct sock_fprog program = {.len = G_N_ELEMENTS(code), .filter = code};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 || fail_step("attach a filter", error);
}

static bool receive_reset(int fd, const TcpConnection *c, GError **error) {
  const TcpSegment reset = {.from = c->remote, .to = c->local, .seq = c->stream->inq_seq, .ack = c->stream->outq_seq, .rst = true};
  return tcp_packet_send(&reset, error) && await_state(fd, INET_CLOSE, error);
}

/* Nobody acknowledges the byte: its first repetition is one too many. */
static bool time_out(int fd, GError **error) {
  int msec = 1, none = 0;
  struct pollfd p = {.fd = fd};
  if (tcp_repair_set(fd, TCP_REPAIR_OFF_NO_WP) < 0 ||
      setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &msec, sizeof msec) < 0 || send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
    return fail_step("send what nobody acknowledges", error);
  (void)poll(&p, 1, TIMEOUT_PATIENCE_MS);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &none, sizeof none);
  return await_state(fd, INET_CLOSE, error) && (tcp_repair_set(fd, TCP_REPAIR_ON) == 0 || fail_step("enter the mode again", error));
}

bool tcp_repair_end(int fd, const TcpConnection *c, int error_number, GError **error) {
  int none = 0;
  if (!hear_only_ours(fd, error))
    return false;
  bool ok = tcp_repair_restore(fd, c, error) && (error_number == ETIMEDOUT ? time_out(fd, error) : receive_reset(fd, c, error));
  if (ok && !error_number)
    (void)sockopt_get(fd, SOL_SOCKET, SO_ERROR, 0); /* reading it takes it off */
  return setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none) == 0 ? ok : ok && fail_step("detach a filter", error);
}

bool tcp_repair_refuse(int fd, const InetAddress *reserved, socklen_t size, GError **error) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || tcp_repair_set(fd, TCP_REPAIR_OFF_NO_WP) < 0)
    return fail_step("get ready to connect", error);
  if (connect(fd, &reserved->sa, size) == 0 || errno != EINPROGRESS)
    return fail_step("be refused", error);
  return await_state(fd, INET_CLOSE, error) && (fcntl(fd, F_SETFL, flags) == 0 || fail_step("set its flags", error));
}
