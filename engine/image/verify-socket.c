/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"

/* What checkpoint.img says about sockets. What the kernel does with it is the kernel's to check; here it must be whole:
 * of a socket, once, of values that have a size, and file ids that exist. */

#define OPTION_MAX 4096  /* bytes: far above the largest one */
#define SENDER_MAX 128   /* a sockaddr_storage */
#define GROUPS_MAX 65536 /* NGROUPS_MAX */

static bool is_socket(FdTypes type) {
  return type == FD_TYPES__UNIXSK || type == FD_TYPES__INETSK || type == FD_TYPES__PACKETSK ||
         type == FD_TYPES__NETLINKSK;
}

static bool wrong(guint32 id, const char *what, GError **error) {
  return image_invalid(error, IMAGE_CHECKPOINT, 0, "socket of file id %u: %s", id, what);
}

static bool verify_options(const CkptSocket *s, GError **error) {
  for (size_t i = 0; i < s->n_option; i++)
    if (!s->option[i]->value.len || s->option[i]->value.len > OPTION_MAX)
      return wrong(s->file_id, "an option has no size, or a size that no option has", error);
  return true;
}

static bool verify_packets(const CkptSocket *s, GError **error) {
  for (size_t i = 0; i < s->n_packet; i++) {
    const CkptPacket *p = s->packet[i];
    if (i && p->number <= s->packet[i - 1]->number)
      return wrong(s->file_id, "its packets are not in their order", error);
    if (p->has_sender && (!p->sender.len || p->sender.len > SENDER_MAX))
      return wrong(s->file_id, "the address of a sender is too long, or empty", error);
    if (p->cred && p->cred->n_group)
      return wrong(s->file_id, "the credentials of a packet have groups", error);
  }
  return true;
}

bool verify_socket(const Checkpoint *c, const CkptSocket *s, GError **error) {
  if (!is_socket(verify_file_type(c, s->file_id)))
    return wrong(s->file_id, "there is no such socket in files.img", error);
  if (checkpoint_find_socket(c, s->file_id))
    return wrong(s->file_id, "it is described twice", error);
  if (s->peer && s->peer->n_group > GROUPS_MAX)
    return wrong(s->file_id, "its peer has too many groups", error);
  if (s->path && s->path[0] != '/')
    return wrong(s->file_id, "the path of its file is not absolute", error);
  for (size_t i = 0; i < s->n_waiting; i++)
    if (s->waiting[i] && verify_file_type(c, s->waiting[i]) != FD_TYPES__UNIXSK)
      return wrong(s->file_id, "a connection that waits there is no unix socket in files.img", error);
  return verify_options(s, error) && verify_packets(s, error);
}
