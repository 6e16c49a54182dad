// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

// --option KEY[:TYPE]=VALUE, for the service. Without a TYPE, true, false and numbers are what
// they look like.
typedef struct ExtraOption {
  char *key;
  char type;       // b, t, u or s
  uint64_t number; // b, t, u
  char *text;      // the value as given
} ExtraOption;

// What the command line asked for. Filled once by options_parse(), constant afterwards.
typedef struct Options {
  bool json;            // one JSON document on standard output
  bool no_progress;     // nothing but the result
  bool verbose;         // log lines and handled objects of the job too
  bool no_ask_password; // no polkit agent on the terminal
  bool leave_running;
  bool stop;
  bool replace;
  bool durable;
  bool shell_job;
  bool file_locks;
  bool tcp_established;
  bool tcp_close;
  bool skip_in_flight;
  bool no_wait;
  bool all;
  uint64_t timeout_usec; // 0: the service's own
  int64_t owner;         // uid; -1: the caller
  const char *directory; // borrowed; NULL: the service's store
  GArray *extra;         // of ExtraOption
  GPtrArray *external;   // rules about external objects, borrowed
} Options;

typedef struct Context Context;

// One verb of the command. @run gets its arguments (NULL-terminated, their number already
// checked) and returns the exit status, having said what went wrong.
typedef struct Verb {
  const char *name;
  const char *arguments; // for the usage text
  const char *summary;
  int min_arguments, max_arguments;
  int (*run)(Context *context, char **arguments);
} Verb;

enum {
  OPTIONS_RUN = -1, // options_parse(): go on
};

// Parses @argv. On OPTIONS_RUN, @ret_verb and @ret_arguments (inside @argv) are set; any other
// value is an exit status (help was printed, or an error).
int options_parse(
    Options *options, const Verb *verbs, int argc, char **argv, const Verb **ret_verb, char ***ret_arguments);
void options_deinit(Options *options);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_deinit)
