// SPDX-License-Identifier: LGPL-2.1-or-later
// The command line: options may stand anywhere, and one that means nothing to the verb is an error
// rather than silently without effect.
#include "command-options.h"

#include "config.h"
#include "report.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  OPTION_JSON = 0x100,
  OPTION_NO_PROGRESS,
  OPTION_NO_ASK_PASSWORD,
  OPTION_REPLACE,
  OPTION_DURABLE,
  OPTION_SHELL_JOB,
  OPTION_FILE_LOCKS,
  OPTION_TCP_ESTABLISHED,
  OPTION_TCP_CLOSE,
  OPTION_SKIP_IN_FLIGHT,
  OPTION_NO_WAIT,
  OPTION_ALL,
  OPTION_OWNER,
  OPTION_VERSION,
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {"json", no_argument, NULL, OPTION_JSON},
    {"no-progress", no_argument, NULL, OPTION_NO_PROGRESS},
    {"no-ask-password", no_argument, NULL, OPTION_NO_ASK_PASSWORD},
    {"verbose", no_argument, NULL, 'v'},
    {"leave-running", no_argument, NULL, 'R'},
    {"stop", no_argument, NULL, 's'},
    {"timeout", required_argument, NULL, 't'},
    {"replace", no_argument, NULL, OPTION_REPLACE},
    {"durable", no_argument, NULL, OPTION_DURABLE},
    {"shell-job", no_argument, NULL, OPTION_SHELL_JOB},
    {"file-locks", no_argument, NULL, OPTION_FILE_LOCKS},
    {"tcp-established", no_argument, NULL, OPTION_TCP_ESTABLISHED},
    {"tcp-close", no_argument, NULL, OPTION_TCP_CLOSE},
    {"skip-in-flight", no_argument, NULL, OPTION_SKIP_IN_FLIGHT},
    {"no-wait", no_argument, NULL, OPTION_NO_WAIT},
    {"all", no_argument, NULL, OPTION_ALL},
    {"owner", required_argument, NULL, OPTION_OWNER},
    {"option", required_argument, NULL, 'o'},
    {"external", required_argument, NULL, 'e'},
    {"directory", required_argument, NULL, 'D'},
    {NULL, 0, NULL, 0},
};

// The verbs an option belongs to; options that are not listed go with every verb.
static const struct {
  int option;
  const char *verbs;
} option_verbs[] = {
    {'R', "dump"},
    {'s', "dump"},
    {OPTION_REPLACE, "dump"},
    {OPTION_DURABLE, "dump"},
    {OPTION_SHELL_JOB, "dump restore explain"},
    {OPTION_FILE_LOCKS, "dump explain"},
    {OPTION_TCP_ESTABLISHED, "dump restore explain"},
    {OPTION_TCP_CLOSE, "dump restore explain"},
    {OPTION_SKIP_IN_FLIGHT, "dump explain"},
    {'t', "dump explain"},
    {OPTION_NO_WAIT, "dump restore"},
    {OPTION_ALL, "list jobs"},
    {'o', "dump restore explain"},
    {'e', "dump restore explain"},
    {'D', "dump restore"},
    {OPTION_OWNER, "restore list show remove jobs"},
};

static void print_usage(const Verb *verbs) {
  printf("usage: checkpoint [OPTION…] VERB [ARGUMENT…]\n"
         "\nStops a running application, writes its whole state to disk, and brings it back.\n\n");
  for (const Verb *verb = verbs; verb->name; verb++) {
    g_autofree char *left = g_strdup_printf("%s %s", verb->name, verb->arguments);
    printf("  %-22s %s\n", left, verb->summary);
  }
  printf("\nAll verbs:\n"
         "      --json               print one JSON document\n"
         "      --no-progress        print the result only\n"
         "  -v, --verbose            print the job's log and objects, or every mapping\n"
         "      --no-ask-password    do not ask for a password on the terminal\n"
         "  -h, --help, --version\n"
         "dump:\n"
         "  -R, --leave-running      let the application go on\n"
         "  -s, --stop               leave it stopped (SIGSTOP) instead of ending it\n"
         "      --replace            replace an earlier checkpoint of that name\n"
         "      --durable            be on disk before the application ends\n"
         "      --file-locks         keep file locks, and take them again at the restore (explain too)\n"
         "  -t, --timeout=SECONDS    freezing and collecting may take so long (explain too)\n"
         "dump and restore:\n"
         "      --no-wait            print the job and leave it to the service\n"
         "  -D, --directory=DIR      images in a directory of yours, not in the service's store\n"
         "      --shell-job          the session may lie outside the tree (explain too)\n"
         "      --tcp-established    keep TCP connections (explain too)\n"
         "      --tcp-close          TCP connections become closed sockets (explain too)\n"
         "      --skip-in-flight     leave out connections that were not accepted yet (dump, explain)\n"
         "  -e, --external=RULE      what to do with an object outside, see checkpoint-external(5) (explain too)\n"
         "  -o, --option=KEY=VALUE   any option of the service; KEY:TYPE=VALUE gives its D-Bus type\n"
         "restore, list, show, remove, jobs:\n"
         "      --owner=USER         whose, if not the caller's\n"
         "      --all                everybody's (list, jobs)\n"
         "\nSee checkpoint(1) for exit statuses and examples.\n");
}

static const char *option_name(int option) {
  for (const struct option *o = long_options; o->name; o++)
    if (o->val == option)
      return o->name;
  return "?";
}

static int parse_timeout(const char *text, uint64_t *ret_usec) {
  char *end = NULL;
  errno = 0;
  double seconds = strtod(text, &end);
  if (errno != 0 || end == text || *end != '\0' || !isfinite(seconds) || seconds <= 0 || seconds > 1e9)
    return report_usage("--timeout wants a number of seconds, not “%s”", text);
  *ret_usec = MAX((uint64_t)(seconds * 1e6), 1);
  return OPTIONS_RUN;
}

static int parse_owner(const char *text, int64_t *ret_uid) {
  guint64 uid = 0;
  if (g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX - 1, &uid, NULL)) {
    *ret_uid = (int64_t)uid;
    return OPTIONS_RUN;
  }
  const struct passwd *user = getpwnam(text);
  if (!user)
    return report_usage("--owner: there is no user “%s”", text);
  *ret_uid = user->pw_uid;
  return OPTIONS_RUN;
}

static void extra_clear(ExtraOption *extra) {
  g_free(extra->key);
  g_free(extra->text);
}

static int parse_extra(const char *text, GArray *list) {
  const char *equals = strchr(text, '=');
  if (!equals || equals == text)
    return report_usage("--option wants KEY=VALUE, not “%s”", text);
  bool truth = strcmp(equals + 1, "true") == 0, falsity = strcmp(equals + 1, "false") == 0;
  guint64 number = truth ? 1 : 0;
  bool is_number = g_ascii_string_to_unsigned(equals + 1, 10, 0, G_MAXUINT64, &number, NULL);
  char *key = g_strndup(text, (gsize)(equals - text)), *colon = strchr(key, ':');
  ExtraOption extra = {.key = key, .number = number, .text = g_strdup(equals + 1)};

  extra.type = truth || falsity ? 'b' : is_number ? 't' : 's';
  if (colon) {
    extra.type = strlen(colon + 1) == 1 ? colon[1] : '?';
    *colon = '\0';
  }
  g_array_append_val(list, extra);
  if ((extra.type == 'b' && (truth || falsity)) || (extra.type == 't' && is_number) || extra.type == 's' ||
      (extra.type == 'u' && is_number && number <= UINT32_MAX))
    return OPTIONS_RUN;
  return report_usage("--option “%s”: the value does not fit the type (b, t, u or s)", text);
}

// The options that only switch something on.
static bool *flag_of(Options *options, int option) {
  const struct {
    int option;
    bool *flag;
  } flags[] = {
      {OPTION_JSON, &options->json},
      {OPTION_NO_PROGRESS, &options->no_progress},
      {OPTION_NO_ASK_PASSWORD, &options->no_ask_password},
      {'v', &options->verbose},
      {'R', &options->leave_running},
      {'s', &options->stop},
      {OPTION_REPLACE, &options->replace},
      {OPTION_DURABLE, &options->durable},
      {OPTION_SHELL_JOB, &options->shell_job},
      {OPTION_FILE_LOCKS, &options->file_locks},
      {OPTION_TCP_ESTABLISHED, &options->tcp_established},
      {OPTION_TCP_CLOSE, &options->tcp_close},
      {OPTION_SKIP_IN_FLIGHT, &options->skip_in_flight},
      {OPTION_NO_WAIT, &options->no_wait},
      {OPTION_ALL, &options->all},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(flags); i++)
    if (flags[i].option == option)
      return flags[i].flag;
  return NULL;
}

static int parse_one(Options *options, int option, const char *value) {
  bool *flag = flag_of(options, option);
  if (flag) {
    *flag = true;
    return OPTIONS_RUN;
  }
  switch (option) {
  case 't':
    return parse_timeout(value, &options->timeout_usec);
  case OPTION_OWNER:
    return parse_owner(value, &options->owner);
  case 'o':
    return parse_extra(value, options->extra);
  case 'D':
    options->directory = value;
    return OPTIONS_RUN;
  case 'e':
    g_ptr_array_add(options->external, (gpointer)value);
    return OPTIONS_RUN;
  default:
    return report_usage("see checkpoint --help");
  }
}

static bool word_in(const char *word, const char *words) {
  g_auto(GStrv) list = g_strsplit(words, " ", -1);
  return g_strv_contains((const char *const *)list, word);
}

static int check_applies(const Verb *verb, const GArray *given) {
  for (guint i = 0; i < given->len; i++) {
    int option = g_array_index(given, int, i);
    for (size_t j = 0; j < G_N_ELEMENTS(option_verbs); j++)
      if (option_verbs[j].option == option && !word_in(verb->name, option_verbs[j].verbs))
        return report_usage(
            "--%s does not go with “%s”, only with: %s", option_name(option), verb->name, option_verbs[j].verbs);
  }
  return OPTIONS_RUN;
}

static int find_verb(const Verb *verbs, char **arguments, const Verb **ret_verb) {
  if (!arguments[0])
    return report_usage("what to do? See checkpoint --help");
  int n = (int)g_strv_length(arguments) - 1;
  for (const Verb *verb = verbs; verb->name; verb++) {
    if (strcmp(verb->name, arguments[0]) != 0)
      continue;
    if (n < verb->min_arguments || n > verb->max_arguments)
      return report_usage("usage: checkpoint %s %s", verb->name, verb->arguments);
    *ret_verb = verb;
    return OPTIONS_RUN;
  }
  return report_usage("“%s” is no verb; see checkpoint --help", arguments[0]);
}

int options_parse(
    Options *options, const Verb *verbs, int argc, char **argv, const Verb **ret_verb, char ***ret_arguments) {
  g_autoptr(GArray) given = g_array_new(FALSE, FALSE, sizeof(int));
  int option, r = OPTIONS_RUN;

  options->owner = -1;
  options->extra = g_array_new(FALSE, FALSE, sizeof(ExtraOption));
  options->external = g_ptr_array_new();
  g_array_set_clear_func(options->extra, (GDestroyNotify)extra_clear);
  while (r == OPTIONS_RUN && (option = getopt_long(argc, argv, "hvRst:o:e:D:", long_options, NULL)) >= 0) {
    if (option == 'h') {
      print_usage(verbs);
      r = EXIT_SUCCESS;
    } else if (option == OPTION_VERSION) {
      printf("checkpoint %s\n", CHECKPOINTD_VERSION);
      r = EXIT_SUCCESS;
    } else {
      r = parse_one(options, option, optarg);
      g_array_append_val(given, option);
    }
  }
  if (r == OPTIONS_RUN)
    r = find_verb(verbs, argv + optind, ret_verb);
  if (r == OPTIONS_RUN)
    r = check_applies(*ret_verb, given);
  if (r == OPTIONS_RUN && options->leave_running && options->stop)
    r = report_usage("--leave-running and --stop contradict each other");
  if (r == OPTIONS_RUN && options->directory && (options->replace || options->owner >= 0))
    r = report_usage("--replace and --owner concern the store, not a --directory");
  if (r == OPTIONS_RUN && options->all && options->owner >= 0)
    r = report_usage("--all and --owner contradict each other");
  *ret_arguments = argv + optind + (argv[optind] ? 1 : 0);
  return r;
}

void options_deinit(Options *options) {
  g_clear_pointer(&options->extra, g_array_unref);
  g_clear_pointer(&options->external, g_ptr_array_unref);
}
