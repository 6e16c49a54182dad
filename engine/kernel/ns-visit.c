/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ns-visit.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Kind {
  int flag;
  const char *name;
  int home;    /* a descriptor of it, from the first visit on, plus 1 */
  int current; /* where this process is: plus 1; 0: at home */
} Kind;

/* A process is in one namespace of each kind. */
static Kind kinds[] = {
    {CLONE_NEWNS, "mnt", 0, 0}, {CLONE_NEWUTS, "uts", 0, 0}, {CLONE_NEWNET, "net", 0, 0}, {CLONE_NEWIPC, "ipc", 0, 0}};
static int home_proc, home_root, home_cwd; /* plus 1 */

static Kind *find_kind(int flag) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (kinds[i].flag == flag)
      return &kinds[i];
  return NULL;
}

const char *ns_kind_name(int flag) {
  const Kind *k = find_kind(flag);
  return k ? k->name : NULL;
}

static bool open_once(int *at, const char *path) {
  if (!*at)
    *at = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) + 1;
  return *at > 0;
}

int ns_visit_open_proc(const char *name, int flags) {
  return open_once(&home_proc, "/proc") ? openat(home_proc - 1, name, flags | O_CLOEXEC) : -1;
}

static int open_own(const Kind *k) {
  char name[32];
  (void)snprintf(name, sizeof name, "thread-self/ns/%s", k->name);
  return ns_visit_open_proc(name, O_RDONLY);
}

/* Where to come back to. setns(2) takes a mount namespace only from a thread that shares its directory with no other. */
static int leave_home(Kind *k) {
  if (!k->home) {
    k->home = open_own(k) + 1;
    if (!k->home)
      return -errno;
  }
  if (k->flag != CLONE_NEWNS || (home_root && home_cwd))
    return 0;
  if (!open_once(&home_root, "/") || !open_once(&home_cwd, "."))
    return -errno;
  return unshare(CLONE_FS) < 0 ? -errno : 0;
}

/* setns(2) goes to the root of the namespace, which may not be the root this process had. */
static bool restore_directories(void) {
  return fchdir(home_root - 1) == 0 && chroot(".") == 0 && fchdir(home_cwd - 1) == 0;
}

static int go(Kind *k, int place) {
  int fd = (place ? place : k->home) - 1;
  if (setns(fd, k->flag) < 0)
    return -errno;
  k->current = place;
  if (!place && k->flag == CLONE_NEWNS && !restore_directories())
    abort();
  return 0;
}

int ns_visit_begin(NsVisit *ret_visit, int kind, int fd) {
  Kind *k = find_kind(kind);
  *ret_visit = (NsVisit){kind, k ? k->current : 0};
  int r = k ? leave_home(k) : -EINVAL;
  return r < 0 || (fd < 0 && !k->current) ? r : go(k, fd < 0 ? 0 : fd + 1);
}

int ns_visit_new(NsVisit *ret_visit, int kind, int *ret_fd) {
  Kind *k = find_kind(kind);
  *ret_visit = (NsVisit){kind, k ? k->current : 0};
  int r = k ? leave_home(k) : -EINVAL;
  if (r < 0)
    return r;
  *ret_fd = -1;
  if (unshare(kind) < 0)
    return -errno;
  *ret_fd = open_own(k);
  if (*ret_fd >= 0 && (kind != CLONE_NEWNS || setns(*ret_fd, kind) == 0)) { /* to its root, as in any other */
    k->current = *ret_fd + 1;
    return 0;
  }
  r = -errno;
  if (go(k, ret_visit->before) < 0)
    abort();
  return r;
}

void ns_visit_end(const NsVisit *visit) {
  Kind *k = find_kind(visit->kind);
  if (k && k->current != visit->before && go(k, visit->before) < 0)
    abort(); /* it must not go on in the wrong place; the tree survives it */
}
