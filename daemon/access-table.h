/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "polkit-client.h"

#define MANAGER_INTERFACE "org.criu.Checkpoint.Manager"
#define JOB_INTERFACE "org.criu.Checkpoint.Job"
#define MANAGER_PATH "/org/criu/Checkpoint"
#define JOB_PATH_PREFIX "/org/criu/Checkpoint/job"

#define ACTION_PRIVILEGED_OPTIONS ACTION("privileged-options")
#define ACTION_MANAGE_ANY ACTION("manage-any")

typedef enum AccessKind {
  ACCESS_OPEN,       /* anybody: shows and touches nothing of anybody's */
  ACCESS_TARGET,     /* own_action if all of the target's uids are the caller's, else any_action */
  ACCESS_CHECKPOINT, /* own_action for a checkpoint of the caller's, else any_action */
  ACCESS_OWN,        /* the caller's own without question; somebody else's: any_action */
} AccessKind;

/* Who may use one member (method or property) of our interfaces. uid 0 may everything. */
typedef struct AccessRow {
  const char *interface;
  const char *member;
  AccessKind kind;
  const char *own_action;
  const char *any_action;
} AccessRow;

/* NULL: the member has no row, and nobody gets it. */
const AccessRow *access_find(const char *interface, const char *member);
