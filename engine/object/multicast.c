/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Multicast groups of UDP sockets. The kernel does not list what a socket has joined; it lists the groups of the host
 * (/proc/net/igmp, igmp6), and answers for one socket and one group at a time (MCAST_MSFILTER). */

#include "inet.h"
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define SOURCES_MAX 64

typedef struct Group {
  int family;
  unsigned int ifindex;
  guint8 address[16];
} Group;

static gpointer groups_new(void) {
  return g_array_new(FALSE, TRUE, sizeof(Group));
}

/* "1\tlo ...": a device; "\t\t\t\t010000E0 ...": a group of it, as the number in memory. */
static void read_igmp(GArray *groups) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/net/igmp", &text, NULL, NULL))
    return;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  unsigned int ifindex = 0;
  for (char **line = lines[0] ? lines + 1 : lines; *line; line++) {
    if (g_ascii_isdigit(**line)) {
      ifindex = (unsigned int)strtoul(*line, NULL, 10);
      continue;
    }
    guint32 address = (guint32)strtoul(*line, NULL, 16);
    Group g = {.family = AF_INET, .ifindex = ifindex};
    memcpy(g.address, &address, sizeof address);
    if (address && address != htonl(INADDR_ALLHOSTS_GROUP))
      g_array_append_val(groups, g);
  }
}

/* "1    lo              ff020000000000000000000000000001     1 0000000C 0" */
static void read_igmp6(GArray *groups) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/net/igmp6", &text, NULL, NULL))
    return;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    Group g = {.family = AF_INET6};
    char hex[33] = "", device[32] = "";
    if (sscanf(*line, "%u %31s %32[0-9a-f]", &g.ifindex, device, hex) != 3 || strlen(hex) != 32)
      continue;
    for (int i = 0; i < 16; i++)
      g.address[i] = (guint8)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
    g_array_append_val(groups, g);
  }
}

static GArray *host_groups(Collector *c) {
  static const char key;
  GArray *groups = collector_state(c, &key, groups_new, (GDestroyNotify)g_array_unref);
  if (!groups->len) {
    read_igmp(groups);
    read_igmp6(groups);
  }
  return groups;
}

typedef struct Filter {
  struct group_filter head;
  struct sockaddr_storage more[SOURCES_MAX]; /* besides the one in head */
} Filter;

static size_t address_size(int family) {
  return family == AF_INET6 ? 16 : 4;
}

static guint8 *address_of(struct sockaddr_storage *a) {
  return a->ss_family == AF_INET6 ? (guint8 *)&((struct sockaddr_in6 *)a)->sin6_addr
                                  : (guint8 *)&((struct sockaddr_in *)a)->sin_addr;
}

static void set_address(struct sockaddr_storage *a, int family, const guint8 *address) {
  a->ss_family = (sa_family_t)family;
  memcpy(address_of(a), address, address_size(family));
}

static int level_of(int family) {
  return family == AF_INET6 ? SOL_IPV6 : SOL_IP;
}

static bool get_filter(int fd, const Group *g, Filter *f) {
  *f = (Filter){.head.gf_interface = g->ifindex, .head.gf_numsrc = SOURCES_MAX};
  set_address(&f->head.gf_group, g->family, g->address);
  socklen_t size = sizeof *f;
  return getsockopt(fd, level_of(g->family), MCAST_MSFILTER, f, &size) == 0;
}

static ProtobufCBinaryData bytes_of(const void *data, size_t n) {
  return (ProtobufCBinaryData){.len = n, .data = g_memdup2(data, n)};
}

static void add_membership(Collector *c, guint32 id, const Group *g, Filter *f) {
  char device[IF_NAMESIZE];
  if (!if_indextoname(g->ifindex, device))
    return;
  Checkpoint *checkpoint = collector_checkpoint(c);
  if (!checkpoint->network)
    checkpoint->network = MESSAGE_NEW(CkptNetwork, ckpt_network__init);
  CkptNetwork *n = checkpoint->network;
  CkptMembership *m = MESSAGE_NEW(CkptMembership, ckpt_membership__init);
  m->id = id;
  m->device = g_strdup(device);
  m->group = bytes_of(g->address, address_size(g->family));
  m->exclude = f->head.gf_fmode == MCAST_EXCLUDE;
  m->source = g_new0(ProtobufCBinaryData, f->head.gf_numsrc);
  for (guint32 i = 0; i < MIN(f->head.gf_numsrc, SOURCES_MAX); i++)
    m->source[m->n_source++] = bytes_of(address_of(&f->head.gf_slist[0] + i), address_size(g->family));
  n->membership = g_renew(CkptMembership *, n->membership, n->n_membership + 1);
  n->membership[n->n_membership++] = m;
}

void multicast_collect(Collector *c, const FileProbe *probe, const InetSkEntry *i) {
  const GArray *groups = host_groups(c);
  for (guint k = 0; k < groups->len; k++) {
    const Group *g = &g_array_index(groups, Group, k);
    Filter f;
    if (g->family != (int)i->family || !get_filter(probe->local, g, &f))
      continue;
    if (f.head.gf_numsrc > SOURCES_MAX)
      collector_block(c, probe, "UDP socket", "it filters more than 64 sources of a multicast group", "close it");
    else
      add_membership(c, i->id, g, &f);
  }
}

/* --- restore --- */

static bool join(const CkptMembership *m, int family, int fd, GError **error) {
  Filter f = {.head = {.gf_interface = if_nametoindex(m->device),
                  .gf_fmode = m->exclude ? MCAST_EXCLUDE : MCAST_INCLUDE,
                  .gf_numsrc = (guint32)m->n_source}};
  if (!f.head.gf_interface)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "There is no network device %s, on which a socket has joined a multicast group", m->device);
  set_address(&f.head.gf_group, family, m->group.data);
  struct group_req request = {.gr_interface = f.head.gf_interface, .gr_group = f.head.gf_group};
  if (setsockopt(fd, level_of(family), MCAST_JOIN_GROUP, &request, sizeof request) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot join a multicast group on %s", m->device);
  if (m->exclude && !m->n_source)
    return true;
  for (size_t i = 0; i < m->n_source; i++)
    set_address(&f.head.gf_slist[0] + i, family, m->source[i].data);
  return setsockopt(fd, level_of(family), MCAST_MSFILTER, &f, (socklen_t)GROUP_FILTER_SIZE(m->n_source)) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot filter the sources of a multicast group");
}

static bool membership_ok(const CkptMembership *m, int family) {
  bool ok = m->group.len == address_size(family) && m->n_source <= SOURCES_MAX;
  for (size_t i = 0; ok && i < m->n_source; i++)
    ok = m->source[i].len == address_size(family);
  return ok;
}

bool multicast_restore(Restorer *r, const InetSkEntry *i, int fd, GError **error) {
  const CkptNetwork *n = restorer_checkpoint(r)->network;
  for (size_t k = 0; n && k < n->n_membership; k++) {
    const CkptMembership *m = n->membership[k];
    if (m->id != i->id)
      continue;
    if (!membership_ok(m, (int)i->family))
      return engine_fail(
          error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The address of a multicast group has the wrong length");
    if (!join(m, (int)i->family, fd, error))
      return false;
  }
  return true;
}
