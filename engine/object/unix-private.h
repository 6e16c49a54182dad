/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Unix sockets with a path that must not show in the file system: an accepted connection carries the path of the
 * listener it came through, which may be gone, or belong to somebody else by now; and a bound socket may have lost its
 * file. A child that shares the descriptors, but has a root of its own (an empty tmpfs in a private mount namespace),
 * binds and connects them there. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct PrivateName {
  const uint8_t *name; /* as in sun_path; NULL: none */
  size_t size;
  const char *directory; /* where a relative name begins; may be NULL */
  uid_t uid;             /* whom the other side sees (SO_PEERCRED) */
  gid_t gid;
} PrivateName;

/* A connected pair of @type (SOCK_STREAM, SOCK_SEQPACKET); the server's end has the server's name. */
bool unix_private_pair(
    int type, const PrivateName *server, const PrivateName *client, int *ret_server, int *ret_client, GError **error);
/* Binds @fd and removes the file again. */
bool unix_private_bind(int fd, const PrivateName *name, GError **error);
/* socketpair(2), seen by either side as made by @uid and @gid. */
bool unix_pair_as(int type, uid_t uid, gid_t gid, int ret_ends[2], GError **error);
/* connect(2) with these effective ids. */
bool unix_connect_as(int fd, const void *address, uint32_t size, uid_t uid, gid_t gid, GError **error);
/* The sockaddr_un of a name; 0 if it is too long. */
typedef struct UnixAddress {
  uint16_t family;
  char path[108];
} UnixAddress;
uint32_t unix_address(UnixAddress *address, const uint8_t *name, size_t size);
