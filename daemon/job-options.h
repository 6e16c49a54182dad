/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "application.h"

/* Which members take an option; one bit each. */
enum {
  OPTION_FOR_DUMP = 1 << 0,
  OPTION_FOR_RESTORE = 1 << 1,
  OPTION_FOR_EXPLAIN = 1 << 2,
  OPTION_FOR_CHECK = 1 << 3,
  OPTION_FOR_CHECKPOINTS = 1 << 4, /* DescribeCheckpoint, RemoveCheckpoint */
  OPTION_FOR_LIST_CHECKPOINTS = 1 << 5,
  OPTION_FOR_LIST_JOBS = 1 << 6,
  OPTION_FOR_CANCEL = 1 << 7,
  OPTION_FOR_SELF = 1 << 8,      /* self-dumps */
  OPTION_FOR_REGISTER = 1 << 9,  /* RegisterApplication */
  OPTION_FOR_ALL = (1 << 10) - 1,
};

typedef struct JobOptions {
  bool leave_running;
  bool stop;
  bool durable;
  bool shell_job;
  bool file_locks;
  bool link_remap;
  uint64_t ghost_limit; /* bytes; 0: none */
  bool replace;
  bool all;                  /* lists: everybody's */
  bool cancel_on_disconnect; /* from on-disconnect */
  bool owner_set;
  uint32_t owner;
  uint64_t timeout_usec; /* 0: the engine's own */
  bool any_target;             /* ask for dump-any although the root is the caller's own */
  int terminal;                /* what stands for the one outside (shell-job); owned; 0: none */
  int connection;              /* self-dump: the end the service closes; owned; 0: none */
  HooksMode hooks;
  uint64_t hooks_timeout_usec; /* 0: the service's own */
  char *token;
  bool ext_unix_sk;
  bool tcp_established;
  bool tcp_close;
  bool skip_in_flight;
  GPtrArray *inherit_keys; /* of descriptors for external objects; NULL: none */
  GArray *inherit_fds;     /* int, owned, one for each key */
  GStrv external; /* rules, which the engine reads; NULL: none */
  const char *manage_cgroups; /* the mode, static; NULL: not given */
  const char *unsupported; /* an option whose time has not come, or NULL */
  const char *dangerous;   /* an option that needs privileged-options, or NULL */
} JobOptions;

void job_options_clear(JobOptions *options);
/* Only the descriptors. */
void job_options_close(JobOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(JobOptions, job_options_clear)

/* Reads the a{sv} at @message's position. @options starts zeroed. An option that is
 * unknown, of another type, given twice, of a bad value, or not @member's (one of
 * OPTION_FOR_*) is InvalidArgs and the message names it. Options of later versions are
 * checked for their type and then noted in @options->unsupported and ->dangerous. */
bool job_options_read(JobOptions *options, sd_bus_message *message, unsigned member, GError **error);

/* The i-th row of the option table, for tests; NULL after the last. */
const char *job_options_nth(size_t i, const char **ret_signature, unsigned *ret_members);
