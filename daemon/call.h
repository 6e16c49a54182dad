/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "access-table.h"
#include "caller.h"
#include "daemon-job.h"
#include "job-options.h"
#include "manager.h"

typedef struct BusJob BusJob;
typedef struct Call Call;

/* One member: @parse reads the whole message and says what is to be authorized; then
 * comes polkit; then @proceed does it, with nothing read from the message any more.
 * Either returns false with @error, which becomes the answer. */
typedef struct CallHandler {
  const char *interface;
  const char *member;
  bool (*parse)(Call *call, GError **error);
  bool (*proceed)(Call *call, GError **error);
} CallHandler;

/* A method call on its way through authorization. */
struct Call {
  Manager *manager;
  sd_bus_message *message;
  const CallHandler *handler;
  const AccessRow *row;
  Caller *caller;
  JobOptions options;
  Target *target;  /* dump, explain */
  char *name;      /* a checkpoint's, or a property's */
  int fd;          /* the directory, or the connection, that came along; owned; -EBADF: none */
  uid_t owner;     /* whose checkpoint or job */
  uint64_t job_id; /* Job interface */
  bool any;        /* more than the caller's own is asked for: row->any_action */
  const char *pending_actions[2];
  unsigned n_actions, next_action;
  struct PolkitPending *question;
  sd_bus_track *track; /* of the caller, while the question is open */
};

/* Takes a call that came in for @handler: answers errors, asks polkit if it must, goes
 * on when it may. A caller that leaves meanwhile is forgotten. sd-bus's result. */
int call_begin(Manager *manager, sd_bus_message *message, const CallHandler *handler);

/* Answers all calls that wait for their authorization with ShuttingDown. */
void call_refuse_all(Manager *manager);

void call_free(Call *call);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Call, call_free)

/* Notes that @action must be granted before the call may go on. uid 0 is never asked. */
void call_require(Call *call, const char *action);
