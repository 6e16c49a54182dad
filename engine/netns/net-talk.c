/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-talk.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_SIZE (256 * 1024)

/* Negative errno; 0: more to come; 1: that was the end. */
static int read_answer(const char *buffer, ssize_t n, int answer, GByteArray *ret) {
  const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)buffer;
  for (; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
    if (h->nlmsg_type == NLMSG_DONE)
      return 1;
    if (h->nlmsg_type == NLMSG_ERROR) {
      int outcome = h->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)) ? -EPROTO : ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
      return outcome ? outcome : 1;
    }
    if (ret && (!answer || h->nlmsg_type == answer)) {
      static const guint8 padding[NLMSG_ALIGNTO];
      g_byte_array_append(ret, (const guint8 *)h, h->nlmsg_len);
      g_byte_array_append(ret, padding, NLMSG_ALIGN(h->nlmsg_len) - h->nlmsg_len);
    }
  }
  return 0;
}

static int exchange(int fd, const void *message, size_t size, int answer, GByteArray *ret) {
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  g_autofree char *buffer = g_malloc(ANSWER_SIZE);
  if (sendto(fd, message, size, 0, (const struct sockaddr *)&kernel, sizeof kernel) < 0)
    return -errno;
  for (;;) {
    ssize_t n = recv(fd, buffer, ANSWER_SIZE, 0);
    if (n < 0 && errno == EINTR)
      continue;
    int r = n <= 0 ? (n < 0 ? -errno : -EIO) : read_answer(buffer, n, answer, ret);
    if (r)
      return MIN(r, 0);
  }
}

static int talk(int protocol, const void *message, size_t size, int answer, GByteArray *ret) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd < 0)
    return -errno;
  int r = exchange(fd, message, size, answer, ret);
  (void)close(fd);
  return r;
}

int net_talk_list(int protocol, int request, int answer, const void *header, size_t size, GByteArray *ret) {
  struct {
    struct nlmsghdr h;
    char header[64];
  } message = {.h = {.nlmsg_len = (guint32)NLMSG_LENGTH(size), .nlmsg_type = (guint16)request, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  g_assert(size <= sizeof message.header);
  memcpy(message.header, header, size);
  return talk(protocol, &message, message.h.nlmsg_len, answer, ret);
}

struct nl_msg *net_talk_new(int request, int flags, const void *header, size_t size) {
  struct nl_msg *m = nlmsg_alloc_size(64 * 1024);
  if (!m)
    g_error("out of memory");
  (void)nlmsg_put(m, 0, 1, request, 0, NLM_F_REQUEST | NLM_F_ACK | flags);
  (void)nlmsg_append(m, (void *)(uintptr_t)header, size, NLMSG_ALIGNTO);
  return m;
}

int net_talk(struct nl_msg *m, GByteArray *ret) {
  int r = talk(NETLINK_ROUTE, nlmsg_hdr(m), nlmsg_hdr(m)->nlmsg_len, 0, ret);
  nlmsg_free(m);
  return r;
}

int net_talk_bytes(const void *message, size_t size) {
  return talk(NETLINK_ROUTE, message, size, 0, NULL);
}

struct nlmsghdr *net_talk_next(const GByteArray *bytes, guint *at) {
  if (*at + sizeof(struct nlmsghdr) > bytes->len)
    return NULL;
  struct nlmsghdr *h = (struct nlmsghdr *)(void *)(bytes->data + *at);
  if (h->nlmsg_len < sizeof *h || h->nlmsg_len > bytes->len - *at)
    return NULL;
  *at += NLMSG_ALIGN(h->nlmsg_len);
  return h;
}

void net_talk_parse(const struct nlmsghdr *h, size_t size, struct nlattr **ret, int max) {
  memset(ret, 0, sizeof *ret * (size_t)(max + 1));
  if (h->nlmsg_len >= NLMSG_LENGTH(size))
    (void)nla_parse(ret, max, nlmsg_attrdata((struct nlmsghdr *)(uintptr_t)h, (int)size), nlmsg_attrlen((struct nlmsghdr *)(uintptr_t)h, (int)size), NULL);
}
