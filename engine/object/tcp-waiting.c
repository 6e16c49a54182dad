/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* TCP connections that nobody has accepted. Their server's ends have no descriptor, and to take one would be to accept it, which
 * cannot be undone. But where nothing has been sent yet there is nothing in them either: the client, if it is in the tree,
 * simply connects again, in the order of the queue. sock_diag(7) lists these ends (they have no inode) with what is unread. */

#include "inet.h"
#include "sockopts.h"
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>

typedef struct Listening {
  guint32 id, waiting; /* how many wait */
} Listening;

typedef struct Waiting {
  GArray *listening; /* Listening */
  GHashTable *anew;  /* file ids of clients that connect again */
} Waiting;

static gpointer waiting_new(void) {
  Waiting *w = g_new0(Waiting, 1);
  w->listening = g_array_new(FALSE, FALSE, sizeof(Listening));
  w->anew = g_hash_table_new(NULL, NULL);
  return w;
}

static void waiting_free(gpointer data) {
  Waiting *w = data;
  g_array_unref(w->listening);
  g_hash_table_unref(w->anew);
  g_free(w);
}

static Waiting *waiting_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, waiting_new, waiting_free);
}

void tcp_waiting_note(Collector *c, guint32 id, guint32 waiting) {
  Listening one = {.id = id, .waiting = waiting};
  g_array_append_val(waiting_of(c)->listening, one);
}

bool tcp_waiting_connects_again(Collector *c, guint32 id) {
  return g_hash_table_contains(waiting_of(c)->anew, GUINT_TO_POINTER(id));
}

guint32 tcp_waiting_expected(Collector *c, guint32 id) {
  const GArray *all = waiting_of(c)->listening;
  for (guint i = 0; i < all->len; i++)
    if (g_array_index(all, Listening, i).id == id)
      return g_array_index(all, Listening, i).waiting;
  return 0;
}

static bool has_sent(int fd) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  int unsent = 0;
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || info.tcpi_state != INET_ESTABLISHED || info.tcpi_bytes_sent ||
         ioctl(fd, SIOCOUTQ, &unsent) < 0 || unsent;
}

/* The other end of it, in the tree; NULL: there is none, or data is on its way. */
static InetSkEntry *client_of(Collector *c, const InetSkEntry *listener, const TcpOrphan *o) {
  const GPtrArray *files = collector_checkpoint(c)->files;
  NetTuple wanted = inet_tuple(&o->remote, &o->local);
  for (guint i = 0; i < files->len; i++) {
    InetSkEntry *e = ((FileEntry *)files->pdata[i])->isk;
    InetAddress local, remote;
    socklen_t size;
    if (!e || !inet_is_connection(e) || e->ns_id != listener->ns_id || e->state != INET_ESTABLISHED || !inet_entry_address(e, false, &local, &size, NULL) ||
        !inet_entry_address(e, true, &remote, &size, NULL))
      continue;
    NetTuple tuple = inet_tuple(&local, &remote);
    if (memcmp(&tuple, &wanted, sizeof tuple) == 0)
      return o->unread || o->state != INET_ESTABLISHED || has_sent(collector_local_of(c, e->id)) ? NULL : e;
  }
  return NULL;
}

static bool is_at(const InetSkEntry *listener, const TcpOrphan *o) {
  return ntohs(o->local.in.sin_port) == listener->src_port; /* at the same place in both families */
}

static void check_one(Collector *c, Waiting *w, const Listening *one) {
  const FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), one->id);
  FileProbe probe;
  InetAddress local;
  socklen_t size;
  guint32 known = 0;
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (!collector_visit_net(c, collector_net_ns_of(c, one->id), &visit, NULL))
    return;
  if (!entry || !entry->isk || !inet_entry_address(entry->isk, false, &local, &size, NULL))
    return;
  g_autoptr(GArray) orphans = tcp_diag_orphans((int)entry->isk->family);
  for (guint i = 0; orphans && i < orphans->len; i++) {
    const TcpOrphan *o = &g_array_index(orphans, TcpOrphan, i);
    InetSkEntry *client = is_at(entry->isk, o) ? client_of(c, entry->isk, o) : NULL;
    known += client != NULL;
    if (client)
      (void)g_hash_table_add(w->anew, GUINT_TO_POINTER(client->id));
  }
  if (known >= one->waiting || !collector_probe_of(c, one->id, &probe))
    return;
  g_autofree char *from = inet_address_text(&local);
  g_autofree char *what = g_strdup_printf("TCP socket listening at %s", from);
  g_autofree char *reason = g_strdup_printf("%u connections wait to be accepted that come from outside, or have sent data already", one->waiting - known);
  collector_block(c, &probe, what, reason, "try again in a moment, or use the option skip-in-flight to leave them out");
}

void tcp_waiting_check(Collector *c) {
  Waiting *w = waiting_of(c);
  for (guint i = 0; i < w->listening->len; i++)
    check_one(c, w, &g_array_index(w->listening, Listening, i));
}
