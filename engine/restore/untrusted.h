/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What images from a caller may ask for: nothing that the caller could not make by itself. Pure: the model against a
 * few numbers, before anything is opened or made. The engine has become the caller by then, so the kernel would refuse
 * most of it as well; here it is refused with a reason, and whatever the kernel would just do differently, too. */

#include "checkpoint.h"
#include "error.h"
#include <sys/resource.h>

typedef struct UntrustedRights {
  uid_t uid;
  gid_t gid;
  GArray *groups;              /* gid_t, as getgroups(2) gives them */
  guint64 bounding;            /* capability bounding set */
  rlim_t limits[RLIM_NLIMITS]; /* hard */
  int nice, oom_score_adj;
  guint32 first_pid;  /* the lowest process id that may be asked for */
  guint16 first_port; /* the lowest that needs no capability */
} UntrustedRights;

/* Those of this process. */
UntrustedRights *untrusted_rights_of_self(void);
void untrusted_rights_free(UntrustedRights *rights);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(UntrustedRights, untrusted_rights_free)

/* NOT_PERMITTED_TARGET names the first thing that is more than @rights. */
bool untrusted_check(const Checkpoint *checkpoint, const UntrustedRights *rights, GError **error);
