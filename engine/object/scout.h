/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The scout: what the kernel says about each descriptor of a task by itself; what depends on other descriptors (is it the
 * same description? what is at the other end?) is the collector's. One thread does it all, unless there are many: threads share
 * a table of descriptors, in which every lookup would then have to count references. Of many a second thread looks at the last
 * ones, in a table of its own. */

#include "internal.h"

/* Looks at one descriptor after the other. Keeps /proc/self/fd and the last directory open, and remembers the last
 * path. */
typedef struct Looker Looker;
Looker *looker_new(void);
void looker_free(Looker *l);
/* May be NULL; borrowed. Files are looked for where they are mounted. */
void looker_set_namespaces(Looker *l, const NsSet *set);
/* Fills everything of a probe whose pid, comm, fd, pidfd, local are set. The link is allocated and the caller's. Flags
 * and position are not touched when @keep_flags. */
bool looker_look(Looker *l, FileProbe *probe, bool keep_flags, char **ret_link, GError **error);

typedef struct Sight {
  FileProbe probe; /* local belongs to the sight, as the link does; -1: nobody has needed it yet */
  bool plain; /* collected without local */
  char *link;
  GError *error;
} Sight;

typedef struct Scout Scout;
/* All arguments are borrowed until scout_free(). */
Scout *scout_new(const FileProbe *like, const CollectedFd *fds, size_t n_fds, Looker *looker);
/* Sights in the order of @fds. The one before is let go by the next call. NULL at the end. */
Sight *scout_next(Scout *s);
/* Sees to it that local is open. */
bool sight_open(Sight *sight, GError **error);
void scout_free(Scout *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Scout, scout_free)
