/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Unix sockets with a path that must not show in the file system: an accepted connection carries the path of the
 * listener it came through, which may be gone, or belong to somebody else by now; and a bound socket may have lost its
 * file, or have it elsewhere. A child that shares the descriptors, but has a root of its own (an empty tmpfs in a private
 * mount namespace), binds them there. */

#include "as-process.h"
#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct PrivateName {
  const uint8_t *name; /* as in sun_path; NULL: none */
  size_t size;
  const char *directory; /* where a relative name begins; may be NULL */
  AsWho who;             /* whom the other side sees (SO_PEERCRED) */
} PrivateName;

/* A connected pair of @type (SOCK_STREAM, SOCK_SEQPACKET); the server's end has the server's name. */
bool unix_private_pair(
    int type, const PrivateName *server, const PrivateName *client, int *ret_server, int *ret_client, GError **error);
/* Binds @fd to a path. *ret_directory: an O_PATH descriptor of the directory that the file lies in, whose last name is that
 * of the path: it can be reached through it (unix_address_at()) until all is closed. NULL: nobody needs to. */
bool unix_private_bind(int fd, const PrivateName *name, int *ret_directory, GError **error);
/* The same, but the file comes to lie at @path, an absolute path of the real file system where nothing is. */
bool unix_private_bind_at(int fd, const PrivateName *name, const char *path, GError **error);
/* socketpair(2), seen by either side as made by @who. */
bool unix_pair_as(int type, const AsWho *who, int ret_ends[2], GError **error);
/* listen(2), connect(2) as @who. */
bool unix_listen_as(int fd, int backlog, const AsWho *who, GError **error);
bool unix_connect_as(int fd, const void *address, uint32_t size, const AsWho *who, GError **error);
/* The same to a name as in sun_path; 0 or a negative errno. */
int unix_reach_as(int fd, const uint8_t *name, size_t size, uid_t uid, gid_t gid);
/* The sockaddr_un of a name; 0 if it is too long. */
typedef struct UnixAddress {
  uint16_t family;
  char path[108];
} UnixAddress;
uint32_t unix_address(UnixAddress *address, const uint8_t *name, size_t size);
/* The address of the file with the last name of @name in an open directory, however long its path is. */
uint32_t unix_address_at(UnixAddress *address, int directory, const uint8_t *name, size_t size);
