/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-place.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

struct NetPlaces {
  GPtrArray *all; /* NetPlace */
};

static void place_free(void *p) {
  NetPlace *place = p;
  if (place->fd >= 0)
    (void)close(place->fd);
  g_free(place);
}

/* --- visits --- */

static int open_current(void) {
  return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

bool net_visit_begin(NetVisit *visit, int fd, GError **error) {
  visit->back = -1;
  if (fd < 0)
    return true;
  int back = open_current();
  if (back >= 0 && setns(fd, CLONE_NEWNET) == 0) {
    visit->back = back;
    return true;
  }
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot enter a network namespace");
  if (back >= 0)
    (void)close(back);
  return false;
}

int net_visit_new(NetVisit *visit, GError **error) {
  int back = open_current();
  visit->back = -1;
  if (back < 0 || unshare(CLONE_NEWNET) < 0) {
    engine_fail_errno(error, errno == EPERM ? ENGINE_ERROR_CODE__FAILED : ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno,
        "Cannot make a network namespace");
    if (back >= 0)
      (void)close(back);
    return -1;
  }
  visit->back = back;
  int fd = open_current();
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a new network namespace");
  return fd;
}

void net_visit_end(NetVisit *visit) {
  if (visit->back < 0)
    return;
  if (setns(visit->back, CLONE_NEWNET) < 0)
    g_error("Cannot come back from a network namespace: %s", g_strerror(errno));
  (void)close(visit->back);
  visit->back = -1;
}

/* --- places --- */

guint64 net_cookie_of(int socket_fd) {
  guint64 cookie = 0;
  socklen_t size = sizeof cookie;
  return getsockopt(socket_fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

static guint64 cookie_here(void) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  guint64 cookie = fd < 0 ? 0 : net_cookie_of(fd);
  if (fd >= 0)
    (void)close(fd);
  return cookie;
}

guint64 net_cookie_of_home(void) {
  static guint64 known;
  if (!known)
    known = cookie_here();
  return known;
}

const NetPlace *net_places_add(NetPlaces *places, guint32 id, int fd, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  NetPlace *place = g_new0(NetPlace, 1);
  struct stat st;
  *place = (NetPlace){.id = id, .fd = fd};
  g_ptr_array_add(places->all, place);
  if (fstat(fd, &st) < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat a network namespace");
    return NULL;
  }
  place->ino = st.st_ino;
  if (!net_visit_begin(&visit, fd, error))
    return NULL;
  place->cookie = cookie_here();
  return place;
}

NetPlaces *net_places_new(guint32 home_id, GError **error) {
  g_autoptr(NetPlaces) places = g_new0(NetPlaces, 1);
  places->all = g_ptr_array_new_with_free_func(place_free);
  int fd = open_current();
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the network namespace of the engine");
    return NULL;
  }
  if (!net_places_add(places, home_id, fd, error))
    return NULL;
  ((NetPlace *)places->all->pdata[0])->home = true;
  return g_steal_pointer(&places);
}

void net_places_free(NetPlaces *places) {
  if (!places)
    return;
  g_ptr_array_unref(places->all);
  g_free(places);
}

guint net_places_count(const NetPlaces *places) {
  return places ? places->all->len : 0;
}

const NetPlace *net_places_get(const NetPlaces *places, guint i) {
  return places->all->pdata[i];
}

const NetPlace *net_places_find(const NetPlaces *places, guint32 id) {
  for (guint i = 0; i < net_places_count(places); i++)
    if (net_places_get(places, i)->id == id)
      return net_places_get(places, i);
  return NULL;
}

const NetPlace *net_places_find_ino(const NetPlaces *places, ino_t ino) {
  for (guint i = 0; i < net_places_count(places); i++)
    if (net_places_get(places, i)->ino == ino)
      return net_places_get(places, i);
  return NULL;
}

const NetPlace *net_places_of_socket(const NetPlaces *places, int fd) {
  guint64 cookie = net_places_count(places) ? net_cookie_of(fd) : 0;
  for (guint i = 0; cookie && i < net_places_count(places); i++)
    if (net_places_get(places, i)->cookie == cookie)
      return net_places_get(places, i);
  return NULL;
}
