/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-diag.h"
#include "internal.h"
#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

static void diag_free(void *p) {
  UnixDiag *d = p;
  g_clear_pointer(&d->name, g_bytes_unref);
  g_clear_pointer(&d->waiting, g_array_unref);
  g_free(d);
}

static void read_attribute(UnixDiag *d, const struct nlattr *a) {
  const void *data = (const char *)a + NLA_HDRLEN;
  size_t size = a->nla_len - NLA_HDRLEN;
  switch (a->nla_type & NLA_TYPE_MASK) {
  case UNIX_DIAG_NAME:
    g_clear_pointer(&d->name, g_bytes_unref);
    d->name = g_bytes_new(data, size);
    break;
  case UNIX_DIAG_VFS:
    d->has_file = size >= sizeof(struct unix_diag_vfs);
    if (d->has_file) {
      d->vfs_ino = ((const struct unix_diag_vfs *)data)->udiag_vfs_ino;
      d->vfs_dev = ((const struct unix_diag_vfs *)data)->udiag_vfs_dev;
    }
    break;
  case UNIX_DIAG_PEER:
    if (size >= sizeof d->peer)
      memcpy(&d->peer, data, sizeof d->peer);
    break;
  case UNIX_DIAG_RQLEN:
    if (size >= sizeof(struct unix_diag_rqlen)) {
      d->rqueue = ((const struct unix_diag_rqlen *)data)->udiag_rqueue;
      d->wqueue = ((const struct unix_diag_rqlen *)data)->udiag_wqueue;
    }
    break;
  case UNIX_DIAG_ICONS:
    if (!d->waiting)
      d->waiting = g_array_new(FALSE, FALSE, sizeof(guint32));
    g_array_append_vals(d->waiting, data, (guint)(size / sizeof(guint32)));
    break;
  case UNIX_DIAG_SHUTDOWN:
    d->shutdown = *(const guint8 *)data;
    break;
  default:
    break;
  }
}

static void read_socket(GHashTable *all, const struct nlmsghdr *h) {
  const struct unix_diag_msg *msg = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *msg))
    return;
  UnixDiag *d = g_new0(UnixDiag, 1);
  d->ino = msg->udiag_ino;
  d->type = msg->udiag_type;
  d->state = msg->udiag_state;
  const char *at = (const char *)msg + NLMSG_ALIGN(sizeof *msg), *end = (const char *)h + h->nlmsg_len;
  while (at + NLA_HDRLEN <= end) {
    const struct nlattr *a = (const struct nlattr *)at;
    if (a->nla_len < NLA_HDRLEN || at + a->nla_len > end)
      break;
    read_attribute(d, a);
    at += NLA_ALIGN(a->nla_len);
  }
  g_hash_table_replace(all, GUINT_TO_POINTER(d->ino), d);
}

/* 1: more to come, 0: done, negative errno. */
static int read_messages(GHashTable *all, const char *buffer, ssize_t size) {
  const struct nlmsghdr *h = (const struct nlmsghdr *)buffer;
  for (; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    if (h->nlmsg_type == NLMSG_DONE)
      return 0;
    if (h->nlmsg_type == NLMSG_ERROR)
      return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY)
      read_socket(all, h);
  }
  return 1;
}

static int dump(int fd, GHashTable *all) {
  struct {
    struct nlmsghdr header;
    struct unix_diag_req request;
  } message = {
      .header = {.nlmsg_len = sizeof message,
          .nlmsg_type = SOCK_DIAG_BY_FAMILY,
          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .request = {.sdiag_family = AF_UNIX,
          .udiag_states = ~0U,
          .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN},
  };
  if (send(fd, &message, sizeof message, 0) < 0)
    return -errno;
  const size_t size = 64 * 1024;
  g_autofree char *buffer = g_malloc(size);
  int more = 1;
  while (more > 0) {
    ssize_t n = recv(fd, buffer, size, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? -errno : -EIO;
    more = read_messages(all, buffer, n);
  }
  return more;
}

/* Listeners know who waits; the other way round it is looked up more often. */
static void link_waiting(GHashTable *all) {
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, all);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    const UnixDiag *listener = value;
    for (guint i = 0; listener->waiting && i < listener->waiting->len; i++) {
      UnixDiag *client = g_hash_table_lookup(all, GUINT_TO_POINTER(g_array_index(listener->waiting, guint32, i)));
      if (client)
        client->waits_at = listener->ino;
    }
  }
}

static int dump_here(GHashTable *all) {
  _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  return fd < 0 ? -errno : dump(fd, all);
}

static int dump_places(GHashTable *all, const NetPlaces *places, GError **error) {
  int r = places ? 0 : dump_here(all);
  for (guint i = 0; r == 0 && i < net_places_count(places); i++) {
    g_auto(NetVisit) visit = NET_VISIT_INIT;
    r = net_visit_begin(&visit, net_places_get(places, i)->fd, error) ? dump_here(all) : 1;
  }
  return r;
}

GHashTable *unix_diag_all(const NetPlaces *places, GError **error) {
  g_autoptr(GHashTable) all = g_hash_table_new_full(NULL, NULL, NULL, diag_free);
  int r = dump_places(all, places, error);
  if (r == 0) {
    link_waiting(all);
    return g_steal_pointer(&all);
  }
  if (r < 0)
    engine_fail_errno(
        error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, r, "Cannot list unix sockets (sock_diag, CONFIG_UNIX_DIAG)");
  return NULL;
}
