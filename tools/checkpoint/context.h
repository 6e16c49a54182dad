// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "command-options.h"
#include "sd-cleanup.h"

#define SERVICE "org.criu.Checkpoint"
#define SERVICE_PATH "/org/criu/Checkpoint"
#define MANAGER SERVICE ".Manager"
#define JOB SERVICE ".Job"

// One run of the command: what was asked, and the bus.
struct Context {
  const Options *options;
  sd_bus *bus;
  pid_t agent;  // pkttyagent, or 0
  int terminal; // for what is restored, borrowed; 0: none
};

// Connects to the system bus. 0, or an exit status, the reason having been said.
int context_init(Context *context, const Options *options);
void context_deinit(Context *context);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Context, context_deinit)

// Starts an agent that asks for passwords on the terminal, if there is one to ask on.
void context_start_agent(Context *context);

// A call of the Manager: context_call_new(), append the arguments, context_call(). Each returns
// 0 or an exit status; @doing completes "cannot …".
int context_call_new(Context *context, const char *member, sd_bus_message **ret);
int context_call(Context *context, sd_bus_message *call, const char *doing, sd_bus_message **ret);

// What the verb's options mean to the service, appended to @call as a{sv}. Bits of @which.
enum {
  ASK_DUMP = 1 << 0,      // leave-running, stop, replace, durable
  ASK_TIMEOUT = 1 << 1,   // timeout
  ASK_SHELL_JOB = 1 << 2, // shell-job
  ASK_OWNER = 1 << 3,     // owner
  ASK_ALL = 1 << 4,       // all
  ASK_EXTRA = 1 << 5,     // --option
  ASK_LOCKS = 1 << 7,     // file-locks
  ASK_CANCEL = 1 << 6,    // on-disconnect = cancel, unless --no-wait
};
// Returns 0 or an exit status, as above.
int context_append_options(Context *context, sd_bus_message *call, unsigned which);
