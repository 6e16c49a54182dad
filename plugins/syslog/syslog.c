/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Log daemons: syslog(3) sockets and journald's. Datagrams are complete in themselves, so connecting again to the same address
 * is all there is to do. What journald's services have as standard output is a stream whose first lines say whose it is: they
 * are said again. docs/plugins/syslog.md */

#include <checkpoint-plugin.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define VERSION 1
#define TEXT_MAX 512
#define JOURNAL "/run/systemd/journal" /* and, of a namespace of journald's, journal.NAME */

/* The header of a stream, as sd_journal_stream_fd(3) sends it: each a line. */
struct header {
  char identifier[TEXT_MAX], unit[TEXT_MAX];
  int priority, level_prefix, to_syslog, to_kmsg, to_console;
};

/* --- journald's streams --- */

/* In its own directory, which is root's; whoever bound the socket chose the spelling of its path. */
static bool is_journal_stream(const struct checkpoint_object *o) {
  size_t n = strlen(JOURNAL);
  const char *rest = o->peer_name && !strncmp(o->peer_name, JOURNAL, n) ? strchr(o->peer_name + n, '/') : NULL;
  return o->socket_type == SOCK_STREAM && rest && strcmp(rest, "/stdout") == 0;
}

static int digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Texts stand there with C's escapes. Those for characters that no line of the header can have are left out. */
static void take_text(const char *from, char to[TEXT_MAX]) {
  size_t n = 0;
  for (; *from && *from != '\n' && n + 1 < TEXT_MAX; from++) {
    char c = *from;
    if (c == '\\' && from[1] == 'x' && digit(from[2]) >= 0 && digit(from[3]) >= 0) {
      c = (char)(digit(from[2]) * 16 + digit(from[3]));
      from += 3;
    } else if (c == '\\' && from[1]) {
      c = *++from;
      c = c == '\\' || c == '"' || c == '\'' ? c : ' ';
    }
    if ((unsigned char)c >= ' ' && c != 127)
      to[n++] = c;
  }
  to[n] = '\0';
}

static void take_line(const char *line, struct header *h) {
  static const char *const names[] = {"PRIORITY=", "LEVEL_PREFIX=", "FORWARD_TO_SYSLOG=", "FORWARD_TO_KMSG=", "FORWARD_TO_CONSOLE="};
  int *const numbers[] = {&h->priority, &h->level_prefix, &h->to_syslog, &h->to_kmsg, &h->to_console};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    size_t n = strlen(names[i]);
    char *end = NULL;
    long value = strncmp(line, names[i], n) ? -1 : strtol(line + n, &end, 10);
    if (end && end != line + n && value >= 0 && value <= (i ? 1 : 191))
      *numbers[i] = (int)value;
  }
  if (!strncmp(line, "IDENTIFIER=", 11))
    take_text(line + 11, h->identifier);
  if (!strncmp(line, "UNIT=", 5))
    take_text(line + 5, h->unit);
}

/* What journald keeps of the stream for its own restart, by the inode of its end. Its format is journald's own business: what
 * is not there, or not understood, stays as it is. */
static void ask_journald(const struct checkpoint_object *o, struct header *h) {
  char path[256], *line = NULL;
  size_t size = 0;
  int n = (int)strlen(o->peer_name) - 7; /* without "/stdout" */
  (void)snprintf(path, sizeof path, "%.*s/streams/%llu:%llu", n, o->peer_name, (unsigned long long)o->dev,
      (unsigned long long)o->peer_ino);
  FILE *f = fopen(path, "re");
  while (f && getline(&line, &size, f) > 0)
    take_line(line, h);
  free(line);
  if (f)
    (void)fclose(f);
}

static int write_header(const struct header *h, char *to, size_t size) {
  return snprintf(to, size, "%s\n%s\n%d\n%d\n%d\n%d\n%d\n", h->identifier, h->unit, h->priority, h->level_prefix, h->to_syslog,
      h->to_kmsg, h->to_console);
}

/* --- calls --- */

static int refuse(const struct checkpoint_host *host, const char *reason, const char *cure) {
  host->explain(host, reason, cure);
  return CHECKPOINT_REFUSED;
}

static int syslog_dump(void *context, const struct checkpoint_object *o) {
  const struct checkpoint_host *host = context;
  struct header header = {.priority = 6, .level_prefix = 1};
  char record[1 + 3 * TEXT_MAX];
  int n = 0;
  if (!o->argument && (!o->peer_name || (o->peer_name[0] != '/' && o->peer_name[0] != '@')))
    return refuse(host, "its log daemon has no address to connect to", "give one with action=plugin:syslog:ADDRESS, or take action=close");
  if (o->socket_type != SOCK_DGRAM && o->unread)
    return refuse(host, "what the log daemon has sent was not read yet, and a new connection would not bring it",
        "try again in a moment, or accept the loss with action=reconnect unread=drop");
  record[0] = VERSION;
  if (is_journal_stream(o)) {
    take_text(o->comm, header.identifier);
    ask_journald(o, &header);
    n = write_header(&header, record + 1, sizeof record - 1);
  }
  int r = host->record_add(host, o->id, record, (size_t)n + 1);
  return r < 0 ? r : CHECKPOINT_CONNECT;
}

/* Without a record, which a rule of the restore may have sent here, there is nothing to be said first. */
static int syslog_restore(void *context, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  const struct checkpoint_host *host = context;
  const char *record = NULL;
  size_t size = 0;
  int r = host->record_get(host, o->id, 0, (const void **)&record, &size);
  if (r < 0 && r != -ENOENT)
    return r;
  if (r == 0 && (size < 1 || record[0] != VERSION))
    return -EBADMSG;
  r = host->connect_to(host, o->argument, size > 1 ? record + 1 : NULL, size > 1 ? size - 1 : 0);
  return r < 0 ? r : CHECKPOINT_CONNECT;
}

static int syslog_init(const struct checkpoint_host *host, void **ret_context) {
  if (!CHECKPOINT_HAS(host, revision) || host->revision < 2)
    return -EPROTONOSUPPORT;
  *ret_context = (void *)host;
  return 0;
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("syslog", "1", "Sockets of syslog and journald are connected again"),
    .flags = CHECKPOINT_PLUGIN_EXPLAINS | CHECKPOINT_PLUGIN_UNTRUSTED,
    .kinds = CHECKPOINT_KIND_UNIX_SOCKET,
    .init = syslog_init,
    .dump = syslog_dump,
    .restore = syslog_restore,
};
