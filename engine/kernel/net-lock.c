/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rules by nfnetlink, without the nft program: a transaction of messages between BATCH_BEGIN and BATCH_END, sent by one
 * sendmsg. The connections are elements of two sets of concatenated keys (address . port . address . port), so that one
 * lookup a packet is all, however many there are. */

#include "net-lock.h"
#include <netinet/in.h> /* before the kernel's headers, which know of it, but not the other way round */

#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef NFT_TABLE_F_OWNER
#define NFT_TABLE_F_OWNER 2
#endif

#define ELEMENTS_A_MESSAGE 500
#define SEND_BUFFER_MAX (64 << 20)

struct NetLock {
  int fd;
};

/* One transaction being written. */
typedef struct Batch {
  GByteArray *bytes;
  const char *table;
  guint32 sequence;
} Batch;

static void batch_frame(Batch *b, int type) {
  struct {
    struct nlmsghdr h;
    struct nfgenmsg g;
  } frame = {
      .h = {.nlmsg_len = sizeof frame,
          .nlmsg_type = (guint16)type,
          .nlmsg_flags = NLM_F_REQUEST,
          .nlmsg_seq = b->sequence++},
      .g = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES)},
  };
  g_byte_array_append(b->bytes, (const guint8 *)&frame, sizeof frame);
}

static struct nl_msg *message_new(const Batch *b, int type, int flags) {
  struct nl_msg *m = nlmsg_alloc_size(64 * 1024);
  if (!m)
    g_error("out of memory");
  (void)nlmsg_put(m, 0, b->sequence, (NFNL_SUBSYS_NFTABLES << 8) | type, 0, NLM_F_REQUEST | flags);
  const struct nfgenmsg g = {.nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0};
  (void)nlmsg_append(m, (void *)&g, sizeof g, NLMSG_ALIGNTO);
  return m;
}

static void batch_add(Batch *b, struct nl_msg *m) {
  const struct nlmsghdr *h = nlmsg_hdr(m);
  static const guint8 padding[NLMSG_ALIGNTO];
  g_byte_array_append(b->bytes, (const guint8 *)h, h->nlmsg_len);
  g_byte_array_append(b->bytes, padding, NLMSG_ALIGN(h->nlmsg_len) - h->nlmsg_len);
  b->sequence++;
  nlmsg_free(m);
}

static void put_be32(struct nl_msg *m, int type, guint32 value) {
  (void)nla_put_u32(m, type, htonl(value));
}

static void add_table(Batch *b, bool owned) {
  struct nl_msg *m = message_new(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
  (void)nla_put_string(m, NFTA_TABLE_NAME, b->table);
  put_be32(m, NFTA_TABLE_FLAGS, owned ? NFT_TABLE_F_OWNER : 0);
  batch_add(b, m);
}

/* --- sets --- */

/* Numbers that the nft program gives the parts of a key, six bits each: so that it can list the sets. */
enum { DATATYPE_IPADDR = 7, DATATYPE_IP6ADDR = 8, DATATYPE_INET_SERVICE = 13 };

typedef struct Family {
  const char *set;
  guint32 id;
  guint8 nfproto;
  guint32 address_size, source_at, destination_at; /* in the IP header */
  guint32 datatype;
} Family;

static const Family families[] = {
    {"connections4", 1, NFPROTO_IPV4, 4, 12, 16, DATATYPE_IPADDR},
    {"connections6", 2, NFPROTO_IPV6, 16, 8, 24, DATATYPE_IP6ADDR},
};

static guint32 key_size(const Family *f) {
  return 2 * (f->address_size + 4);
}

static void add_set(Batch *b, const Family *f) {
  struct nl_msg *m = message_new(b, NFT_MSG_NEWSET, NLM_F_CREATE);
  guint32 type = f->datatype;
  type = type << 6 | DATATYPE_INET_SERVICE;
  type = type << 6 | f->datatype;
  type = type << 6 | DATATYPE_INET_SERVICE;
  (void)nla_put_string(m, NFTA_SET_TABLE, b->table);
  (void)nla_put_string(m, NFTA_SET_NAME, f->set);
  put_be32(m, NFTA_SET_FLAGS, 0);
  put_be32(m, NFTA_SET_KEY_TYPE, type);
  put_be32(m, NFTA_SET_KEY_LEN, key_size(f));
  put_be32(m, NFTA_SET_ID, f->id);
  batch_add(b, m);
}

/* remote . remote port . local . local port */
static void put_element(struct nl_msg *m, const Family *f, const NetTuple *t) {
  guint8 key[2 * (16 + 4)] = {0}, *at = key;
  guint16 remote_port = htons(t->remote_port), local_port = htons(t->local_port);
  memcpy(at, t->remote, f->address_size), at += f->address_size;
  memcpy(at, &remote_port, 2), at += 4;
  memcpy(at, t->local, f->address_size), at += f->address_size;
  memcpy(at, &local_port, 2);
  struct nlattr *element = nla_nest_start(m, NFTA_LIST_ELEM | NLA_F_NESTED);
  struct nlattr *data = nla_nest_start(m, NFTA_SET_ELEM_KEY | NLA_F_NESTED);
  (void)nla_put(m, NFTA_DATA_VALUE, (int)key_size(f), key);
  (void)nla_nest_end(m, data);
  (void)nla_nest_end(m, element);
}

static void add_elements(Batch *b, const Family *f, const NetTuple *tuples, size_t n) {
  bool six = f->nfproto == NFPROTO_IPV6;
  for (size_t i = 0; i < n;) {
    struct nl_msg *m = message_new(b, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    (void)nla_put_string(m, NFTA_SET_ELEM_LIST_TABLE, b->table);
    (void)nla_put_string(m, NFTA_SET_ELEM_LIST_SET, f->set);
    put_be32(m, NFTA_SET_ELEM_LIST_SET_ID, f->id);
    struct nlattr *list = nla_nest_start(m, NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED);
    int put = 0;
    for (; i < n && put < ELEMENTS_A_MESSAGE; i++)
      if (tuples[i].six == six) {
        put_element(m, f, &tuples[i]);
        put++;
      }
    (void)nla_nest_end(m, list);
    if (put)
      batch_add(b, m);
    else
      nlmsg_free(m);
  }
}

/* --- rules --- */

static struct nlattr *expression_begin(struct nl_msg *m, const char *name, struct nlattr **ret_data) {
  struct nlattr *e = nla_nest_start(m, NFTA_LIST_ELEM | NLA_F_NESTED);
  (void)nla_put_string(m, NFTA_EXPR_NAME, name);
  *ret_data = nla_nest_start(m, NFTA_EXPR_DATA | NLA_F_NESTED);
  return e;
}

static void expression_end(struct nl_msg *m, struct nlattr *e, struct nlattr *data) {
  (void)nla_nest_end(m, data);
  (void)nla_nest_end(m, e);
}

/* meta KEY OP VALUE */
static void put_meta(struct nl_msg *m, guint32 key, guint32 op, const void *value, int size) {
  struct nlattr *data, *e = expression_begin(m, "meta", &data);
  put_be32(m, NFTA_META_KEY, key);
  put_be32(m, NFTA_META_DREG, NFT_REG32_00);
  expression_end(m, e, data);
  e = expression_begin(m, "cmp", &data);
  put_be32(m, NFTA_CMP_SREG, NFT_REG32_00);
  put_be32(m, NFTA_CMP_OP, op);
  struct nlattr *with = nla_nest_start(m, NFTA_CMP_DATA | NLA_F_NESTED);
  (void)nla_put(m, NFTA_DATA_VALUE, size, value);
  (void)nla_nest_end(m, with);
  expression_end(m, e, data);
}

/* Loads @size bytes of a header and moves *reg behind them. */
static void put_payload(struct nl_msg *m, guint32 base, guint32 offset, guint32 size, guint32 *reg) {
  struct nlattr *data, *e = expression_begin(m, "payload", &data);
  put_be32(m, NFTA_PAYLOAD_DREG, *reg);
  put_be32(m, NFTA_PAYLOAD_BASE, base);
  put_be32(m, NFTA_PAYLOAD_OFFSET, offset);
  put_be32(m, NFTA_PAYLOAD_LEN, size);
  expression_end(m, e, data);
  *reg += (size + 3) / 4;
}

static void put_lookup(struct nl_msg *m, const Family *f) {
  struct nlattr *data, *e = expression_begin(m, "lookup", &data);
  (void)nla_put_string(m, NFTA_LOOKUP_SET, f->set);
  put_be32(m, NFTA_LOOKUP_SREG, NFT_REG32_00);
  put_be32(m, NFTA_LOOKUP_SET_ID, f->id);
  expression_end(m, e, data);
}

static void put_drop(struct nl_msg *m) {
  struct nlattr *data, *e = expression_begin(m, "immediate", &data);
  put_be32(m, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
  struct nlattr *immediate = nla_nest_start(m, NFTA_IMMEDIATE_DATA | NLA_F_NESTED);
  struct nlattr *verdict = nla_nest_start(m, NFTA_DATA_VERDICT | NLA_F_NESTED);
  put_be32(m, NFTA_VERDICT_CODE, NF_DROP);
  (void)nla_nest_end(m, verdict);
  (void)nla_nest_end(m, immediate);
  expression_end(m, e, data);
}

/* Seen from a packet that comes in, the remote end is the source. */
static void add_rule(Batch *b, const char *chain, const Family *f, bool incoming, int flags) {
  static const guint8 tcp = IPPROTO_TCP;
  const guint32 mark = NET_LOCK_MARK;
  struct nl_msg *m = message_new(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | flags);
  (void)nla_put_string(m, NFTA_RULE_TABLE, b->table);
  (void)nla_put_string(m, NFTA_RULE_CHAIN, chain);
  struct nlattr *list = nla_nest_start(m, NFTA_RULE_EXPRESSIONS | NLA_F_NESTED);
  put_meta(m, NFT_META_NFPROTO, NFT_CMP_EQ, &f->nfproto, 1);
  put_meta(m, NFT_META_L4PROTO, NFT_CMP_EQ, &tcp, 1);
  put_meta(m, NFT_META_MARK, NFT_CMP_NEQ, &mark, sizeof mark);
  guint32 reg = NFT_REG32_00;
  put_payload(m, NFT_PAYLOAD_NETWORK_HEADER, incoming ? f->source_at : f->destination_at, f->address_size, &reg);
  put_payload(m, NFT_PAYLOAD_TRANSPORT_HEADER, incoming ? 0 : 2, 2, &reg);
  put_payload(m, NFT_PAYLOAD_NETWORK_HEADER, incoming ? f->destination_at : f->source_at, f->address_size, &reg);
  put_payload(m, NFT_PAYLOAD_TRANSPORT_HEADER, incoming ? 2 : 0, 2, &reg);
  put_lookup(m, f);
  put_drop(m);
  (void)nla_nest_end(m, list);
  batch_add(b, m);
}

/* Addresses must be what sockets see: incoming after, outgoing before any translation. */
static void add_chain(Batch *b, const char *name, guint32 hook, gint32 priority) {
  struct nl_msg *m = message_new(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  (void)nla_put_string(m, NFTA_CHAIN_TABLE, b->table);
  (void)nla_put_string(m, NFTA_CHAIN_NAME, name);
  struct nlattr *nest = nla_nest_start(m, NFTA_CHAIN_HOOK | NLA_F_NESTED);
  put_be32(m, NFTA_HOOK_HOOKNUM, hook);
  put_be32(m, NFTA_HOOK_PRIORITY, (guint32)priority);
  (void)nla_nest_end(m, nest);
  put_be32(m, NFTA_CHAIN_POLICY, NF_ACCEPT);
  (void)nla_put_string(m, NFTA_CHAIN_TYPE, "filter");
  batch_add(b, m);
}

/* --- transactions --- */

static Batch batch_begin(const char *table) {
  Batch b = {.bytes = g_byte_array_new(), .table = table, .sequence = 1};
  batch_frame(&b, NFNL_MSG_BATCH_BEGIN);
  return b;
}

int net_lock_socket(void) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
  const struct sockaddr_nl any = {.nl_family = AF_NETLINK};
  if (fd >= 0 && bind(fd, (const struct sockaddr *)&any, sizeof any) < 0) {
    int reason = errno;
    (void)close(fd);
    errno = reason;
    return -1;
  }
  return fd;
}

/* The first failure of a transaction, or the success of its last message; 0 or a negative errno. */
static int read_outcome(int fd, guint32 last) {
  char buffer[16 * 1024] __attribute__((aligned(NLMSG_ALIGNTO)));
  for (;;) {
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? -errno : -EIO;
    struct nlmsghdr *h = (struct nlmsghdr *)buffer;
    for (; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
      if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
        continue;
      int outcome = ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
      if (outcome < 0 || h->nlmsg_seq == last)
        return outcome;
    }
  }
}

/* Sends what was written; its last message asks for an answer. */
static int batch_commit(Batch *b, int fd) {
  guint32 last = b->sequence - 1;
  batch_frame(b, NFNL_MSG_BATCH_END);
  int size = (int)MIN(2 * (guint64)b->bytes->len + 65536, SEND_BUFFER_MAX);
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  ssize_t n = sendto(fd, b->bytes->data, b->bytes->len, 0, (const struct sockaddr *)&kernel, sizeof kernel);
  int r = n < 0 ? -errno : read_outcome(fd, last);
  g_byte_array_unref(b->bytes);
  return r;
}

NetLock *net_lock_new(const char *name, bool owned, const NetTuple *tuples, size_t n, GError **error) {
  g_autoptr(NetLock) lock = g_new0(NetLock, 1);
  lock->fd = net_lock_socket();
  int r = lock->fd < 0 ? -errno : 0;
  if (r == 0) {
    Batch b = batch_begin(name);
    add_table(&b, owned);
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++)
      add_set(&b, &families[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++)
      add_elements(&b, &families[i], tuples, n);
    add_chain(&b, "input", NF_INET_LOCAL_IN, 200);
    add_chain(&b, "output", NF_INET_LOCAL_OUT, -350);
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++) {
      add_rule(&b, "input", &families[i], true, 0);
      add_rule(&b, "output", &families[i], false, i + 1 == G_N_ELEMENTS(families) ? NLM_F_ACK : 0);
    }
    r = batch_commit(&b, lock->fd);
  }
  if (r == 0)
    return g_steal_pointer(&lock);
  bool missing = r == -EOPNOTSUPP || r == -EPROTONOSUPPORT || r == -EAFNOSUPPORT || r == -EINVAL || r == -ENOENT;
  engine_fail_errno(error, missing ? ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE : ENGINE_ERROR_CODE__FAILED, r,
      "Cannot lock the network with the nftables table %s (CONFIG_NF_TABLES_INET, Linux 5.12)", name);
  return NULL;
}

void net_lock_free(NetLock *lock) {
  if (!lock)
    return;
  if (lock->fd >= 0)
    (void)close(lock->fd);
  g_free(lock);
}

static Batch removal(const char *name) {
  Batch b = batch_begin(name);
  struct nl_msg *m = message_new(&b, NFT_MSG_DELTABLE, NLM_F_ACK);
  (void)nla_put_string(m, NFTA_TABLE_NAME, name);
  batch_add(&b, m);
  return b;
}

void *net_lock_removal(const char *name, size_t *ret_size) {
  Batch b = removal(name);
  batch_frame(&b, NFNL_MSG_BATCH_END);
  gsize size = b.bytes->len;
  *ret_size = size;
  return g_byte_array_free(b.bytes, FALSE);
}

bool net_lock_remove(const char *name, GError **error) {
  int fd = net_lock_socket(), r = -errno;
  if (fd >= 0) {
    Batch b = removal(name);
    r = batch_commit(&b, fd);
    (void)close(fd);
  }
  return r == 0 || r == -ENOENT ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot remove the nftables table %s", name);
}

bool net_lock_name_is_ours(const char *name) {
  size_t n = strlen(name);
  return g_str_has_prefix(name, "checkpointd-") && n < 64 && strspn(name + 12, "0123456789abcdef-") == n - 12 && n > 12;
}
