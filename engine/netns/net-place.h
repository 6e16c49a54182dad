/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Network namespaces that a job knows, and visits to them. What is asked about a socket, and what makes one, happens in the
 * namespace that it is of: the engine's main thread goes there for that moment (setns(2)) and comes back. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct NetPlace {
  guint32 id;     /* in the images */
  int fd;         /* of the namespace */
  guint64 cookie; /* SO_NETNS_COOKIE of its sockets */
  ino_t ino;
  bool home; /* the engine's own */
} NetPlace;

typedef struct NetPlaces NetPlaces;

/* With the engine's own, under @home_id. NULL with error. */
NetPlaces *net_places_new(guint32 home_id, GError **error);
void net_places_free(NetPlaces *places);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NetPlaces, net_places_free)
/* Takes @fd over, also when it fails. */
const NetPlace *net_places_add(NetPlaces *places, guint32 id, int fd, GError **error);
/* NULL where there is none; @places may be NULL. */
const NetPlace *net_places_find(const NetPlaces *places, guint32 id);
const NetPlace *net_places_find_ino(const NetPlaces *places, ino_t ino);
const NetPlace *net_places_of_socket(const NetPlaces *places, int fd);
guint net_places_count(const NetPlaces *places);
const NetPlace *net_places_get(const NetPlaces *places, guint i);

/* Of the namespace that a socket is of; 0: the kernel does not tell (before Linux 5.14). */
guint64 net_cookie_of(int socket_fd);
/* Of the engine's own. */
guint64 net_cookie_of_home(void);

/* A visit, also inside of another one. */
typedef struct NetVisit {
  int back; /* -1: nobody has gone anywhere */
} NetVisit;
#define NET_VISIT_INIT {.back = -1}
/* @fd: the namespace; -1: nothing happens. */
bool net_visit_begin(NetVisit *visit, int fd, GError **error);
/* To a new one, whose descriptor is the caller's; -1 with error. */
int net_visit_new(NetVisit *visit, GError **error);
/* Cannot fail: an engine that does not come back from there must not go on, and ends. */
void net_visit_end(NetVisit *visit);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NetVisit, net_visit_end)
