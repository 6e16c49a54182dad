/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The command line and the configuration files of criu, as one table (options.c). Parsing is pure: text in, options or
 * an error out. What the command line says wins over every file; the last of two equal options wins. */

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum CriuAction {
  CRIU_ACTION_NONE = 0,
  CRIU_ACTION_DUMP = 1 << 0,
  CRIU_ACTION_RESTORE = 1 << 1,
  CRIU_ACTION_CHECK = 1 << 2,
  CRIU_ACTION_REFUSED = 1 << 3, /* one of criu's that we do not have yet */
} CriuAction;

/* -v0 nothing, 1 errors, 2 warnings, 3 messages and times, 4 everything. */
enum { CRIU_VERBOSITY_ERROR = 1, CRIU_VERBOSITY_WARN = 2, CRIU_VERBOSITY_INFO = 3, CRIU_VERBOSITY_DEBUG = 4 };

typedef struct CriuOptions {
  CriuAction action;
  bool help;
  bool version;

  uint64_t verbosity;
  char *images_dir; /* NULL: "." */
  char *work_dir;   /* NULL: the images directory */
  char *log_file;   /* NULL: standard error */
  char *plugin_dir; /* NULL: the installed one */
  char *pidfile;
  char *config;
  bool no_default_config;
  bool log_pid;
  bool display_stats;
  uint64_t timeout_sec; /* 0: none */

  uint64_t tree; /* 0: not given */
  bool leave_running;
  bool leave_stopped;
  bool shell_job;
  bool tcp_established;
  bool tcp_close;
  bool skip_in_flight;
  char *network_lock; /* NULL, "nftables" or "skip" */
  bool file_locks;
  bool link_remap;
  char *manage_cgroups;    /* the mode; NULL: not given */
  GPtrArray *cgroup_roots; /* char*, [controllers:]/path */
  uint64_t ghost_limit; /* bytes; 0: none */
  bool restore_detached;
  bool restore_sibling;

  bool check_extra;
  bool check_experimental;
  bool check_all;
  char *feature;

  bool ext_unix_sk;
  GPtrArray *external;     /* char *: rules, as the engine reads them (checkpoint-external(5)) */
  bool empty_net;
  char *root;              /* of the tree's mount namespaces */
  GPtrArray *inherit_keys; /* char * */
  GArray *inherit_fds;     /* int: our descriptors, one for each key */
  char *file_validation;   /* NULL: not given; else as the engine has it: "size", "build-id,size" */

  GPtrArray *action_scripts; /* char *: commands of a shell */

  GPtrArray *given; /* what the command line gave, for criu_options_idle() */
  GString *refused; /* what we cannot do yet of all that was asked */
} CriuOptions;

#define CRIU_OPTIONS_ERROR (criu_options_error_quark())
GQuark criu_options_error_quark(void);

typedef enum CriuOptionsError {
  CRIU_OPTIONS_ERROR_USAGE,         /* unknown option or action, missing or wrong argument */
  CRIU_OPTIONS_ERROR_NOT_SUPPORTED, /* criu has it, we do not yet */
} CriuOptionsError;

CriuOptions *criu_options_new(void);
void criu_options_free(CriuOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CriuOptions, criu_options_free)

/* Reads a command line without the program's name. */
bool criu_options_parse_args(CriuOptions *options, int argc, char *const *argv, GError **error);
/* Reads the text of a configuration file, @name is for messages. One option a line, long names without dashes. */
bool criu_options_parse_config(CriuOptions *options, const char *name, const char *text, GError **error);
/* What must hold between options, after everything was read. */
bool criu_options_check(const CriuOptions *options, GError **error);

/* The options given on the command line that have no meaning for the action, for a warning; NULL if there are none. */
char *criu_options_idle(const CriuOptions *options);

/* What --help shows. */
char *criu_options_help(void);
