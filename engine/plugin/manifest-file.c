/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* NAME.plugin: which program, for which kinds of objects. A key file:
 *
 *     [Plugin]
 *     Program=checkpoint-example    (in the plugin directory, or an absolute path)
 *     Kinds=file;unix-socket        (as ListPlugins names them)
 *     Name=, Version=, Description=, Priority=, After=a;b, DeadlineSec=10, Explains=false,
 *     Untrusted=false
 */

#include "plugin-process.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUP "Plugin"
#define MANIFEST_MAX (64 * 1024)
#define DEADLINE_SEC 10.0
#define DEADLINE_MAX_SEC 86400.0

static bool fail(GError **error, const Plugin *p, const char *reason) {
  return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s: %s", p->file, reason);
}

static GKeyFile *read_manifest(const Plugin *p, int fd, GError **error) {
  g_autoptr(GKeyFile) file = g_key_file_new();
  g_autoptr(GError) failure = NULL;
  g_autofree char *text = g_malloc(MANIFEST_MAX + 1);
  ssize_t n = read(fd, text, MANIFEST_MAX + 1);
  if (n < 0 || n > MANIFEST_MAX) {
    (void)fail(error, p, n < 0 ? g_strerror(errno) : "the manifest is larger than 64 KiB");
    return NULL;
  }
  if (g_key_file_load_from_data(file, text, (gsize)n, G_KEY_FILE_NONE, &failure))
    return g_steal_pointer(&file);
  (void)fail(error, p, failure->message);
  return NULL;
}

static bool read_kinds(Plugin *p, GKeyFile *file, GError **error) {
  g_auto(GStrv) kinds = g_key_file_get_string_list(file, GROUP, "Kinds", NULL, NULL);
  for (char **kind = kinds; kind && *kind; kind++) {
    guint32 bit = 1;
    while (bit <= CHECKPOINT_KIND_LINK && strcmp(plugin_kind_name(bit), *kind) != 0)
      bit <<= 1;
    if (bit > CHECKPOINT_KIND_LINK)
      return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "Plugin %s: there is no kind of objects %s (unix-socket, file, mapping, memory, mount, link)", p->file,
          *kind);
    p->kinds |= bit;
  }
  return true;
}

static bool read_deadline(Plugin *p, GKeyFile *file, GError **error) {
  g_autoptr(GError) failure = NULL;
  double seconds = g_key_file_get_double(file, GROUP, "DeadlineSec", &failure);
  if (failure && g_error_matches(failure, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_KEY_NOT_FOUND))
    seconds = DEADLINE_SEC;
  else if (failure || !(seconds > 0 && seconds <= DEADLINE_MAX_SEC))
    return fail(error, p, "DeadlineSec is no number of seconds (above 0, at most a day)");
  ((Process *)p->self)->deadline_usec = (gint64)(seconds * G_USEC_PER_SEC);
  return true;
}

/* Its path, after its owner and mode were checked. */
static bool read_program(Plugin *p, GKeyFile *file, int dir_fd, GError **error) {
  Process *x = p->self;
  g_autofree char *program = g_key_file_get_string(file, GROUP, "Program", NULL);
  char link[64], directory[4096];
  if (!program || !*program)
    return fail(error, p, "it names no Program");
  if (program[0] != '/' && strchr(program, '/'))
    return fail(error, p, "Program is either a name in the plugin directory or an absolute path");
  if (program[0] == '/') {
    char *found = directory_find_program(p->set, program, error);
    if (!found)
      return false;
    g_free(program);
    program = found;
  }
  int fd = directory_open_file(p->set, dir_fd, program, error);
  if (fd < 0)
    return false;
  struct stat st;
  bool runs = fstat(fd, &st) == 0 && st.st_mode & S_IXUSR;
  (void)close(fd);
  if (!runs)
    return fail(error, p, "Program is not executable");
  (void)g_snprintf(link, sizeof link, "/proc/self/fd/%d", dir_fd);
  ssize_t n = readlink(link, directory, sizeof directory - 1);
  directory[MAX(n, 0)] = '\0';
  x->program = program[0] == '/' ? g_steal_pointer(&program) : g_strdup_printf("%s/%s", directory, program);
  return true;
}

static bool read_all(Plugin *p, GKeyFile *file, int dir_fd, GError **error) {
  p->name = g_key_file_get_string(file, GROUP, "Name", NULL);
  if (!p->name)
    p->name = g_strndup(p->file, strlen(p->file) - strlen(".plugin"));
  p->version = g_key_file_get_string(file, GROUP, "Version", NULL);
  p->description = g_key_file_get_string(file, GROUP, "Description", NULL);
  p->priority = g_key_file_get_integer(file, GROUP, "Priority", NULL);
  p->after = g_key_file_get_string_list(file, GROUP, "After", NULL, NULL);
  if (g_key_file_get_boolean(file, GROUP, "Explains", NULL))
    p->flags |= CHECKPOINT_PLUGIN_EXPLAINS;
  if (g_key_file_get_boolean(file, GROUP, "Untrusted", NULL))
    p->flags |= CHECKPOINT_PLUGIN_UNTRUSTED;
  return read_kinds(p, file, error) && read_deadline(p, file, error) && read_program(p, file, dir_fd, error);
}

bool process_open(Plugin *p, int dir_fd, int manifest, GError **error) {
  g_autoptr(GKeyFile) file = read_manifest(p, manifest, error);
  if (!file)
    return false;
  Process *x = g_new0(Process, 1);
  x->fd = -1;
  p->self = x;
  p->door = &process_door;
  return read_all(p, file, dir_fd, error);
}
