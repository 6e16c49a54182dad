/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Plugins: three doors, one dispatch. A plugin is a shared object that defines callbacks by name (abi-named.c), has
 * CRIU's descriptor (abi-criu.c) or ours (abi-native.c), or is a program of its own (process.c). All of them answer the
 * same calls. Whoever runs a job loads the set, tells it the moments of the job, and offers objects; the set asks the
 * plugins in their order, keeps their records, reports every call to the job, and turns bad answers into errors that
 * name plugin, callback and object. */

#include "checkpoint-plugin.h"
#include "checkpoint.h"
#include "job.h"
#include <sys/stat.h>

typedef struct PluginSet PluginSet;

/* Loads every plugin of the job's directory (options.plugin_directory, else $CHECKPOINTD_PLUGINS, else the installed
 * one) and begins them. Those in a folder on-demand of these directories (of the first that has one of the name) are loaded and
 * begun when an object is sent to them by name. An installed directory that is not there is an empty one. PLUGIN_FAILED names the first plugin
 * that cannot be loaded, may not be (owner, mode), or refuses. @checkpoint: restore: where its records are, borrowed
 * until plugins_end(); NULL otherwise. */
PluginSet *plugins_load(Job *job, enum checkpoint_stage stage, const Checkpoint *checkpoint, GError **error);
/* Ends all of them, in the opposite order; @failure is why the job failed, NULL if it did not. NULL is an empty set. */
void plugins_end(PluginSet *set, const GError *failure);

guint plugins_count(const PluginSet *set);
/* Whether any plugin is asked about objects of @kind (CHECKPOINT_KIND_…). */
bool plugins_want(const PluginSet *set, guint32 kind);

/* A moment (CHECKPOINT_MOMENT_…) of task @pid, for every plugin. */
bool plugins_moment(PluginSet *set, enum checkpoint_moment moment, pid_t pid, GError **error);
bool plugins_begin(PluginSet *set, guint64 n_objects, GError **error);
bool plugins_finish(PluginSet *set, GError **error);

/* What a plugin has said besides its answer, by the functions of its host; all owned, all may be NULL. */
typedef struct PluginSaid {
  char *reason, *cure;
  char *address; /* connect_to */
  GBytes *first;
  bool content_keep;
} PluginSaid;
void plugin_said_clear(PluginSaid *said);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(PluginSaid, plugin_said_clear)

/* What the engine does for plugins that this folder cannot; may be NULL: then it is -ENOSYS. Negative errnos. */
typedef struct PluginServices {
  void *data;
  int (*has_task)(void *data, pid_t pid);
  /* @address as in checkpoint-plugin.h; NULL: the object in question's. */
  int (*connect_as)(void *data, int fd, const char *address, uid_t uid, gid_t gid);
  bool (*is_address)(const char *address);
  int (*content_get)(void *data, int fd, struct checkpoint_content *ret_content);
  int (*content_hash)(int fd, guint64 *ret_hash);
} PluginServices;
void plugins_set_services(PluginSet *set, const PluginServices *services);

/* What became of an object at a dump. */
typedef struct PluginDumped {
  const char *plugin; /* who has it, borrowed; NULL: nobody took it */
  int answer;         /* 0, CHECKPOINT_DISCONNECTED, _CONNECT, _REOPEN, _REFUSED */
  PluginSaid said;
} PluginDumped;
/* Dump: asks about one object. @only: none but the plugin of that name is asked, which may be one that is loaded on demand;
 * NULL: all. */
bool plugins_dump(
    PluginSet *set, const struct checkpoint_object *object, const char *only, PluginDumped *ret_dumped, GError **error);
/* An id for an object that is no file. */
guint64 plugins_new_id(PluginSet *set);
/* The same for the content of a private mapping, which gets its id here. */
bool plugins_dump_memory(
    PluginSet *set, const struct checkpoint_object *object, const char **ret_plugin, GError **error);
/* The names of plugins that could take objects of @kind but are only asked by a dump (EXPLAIN); NULL: none. @only: of that
 * one alone. Newly allocated. */
char *plugins_unasked(const PluginSet *set, guint32 kind, const char *only);
/* Moves what the plugins took, with all records, into the checkpoint. */
void plugins_store(PluginSet *set, Checkpoint *checkpoint);

/* What became of an object at a restore. */
typedef struct PluginRestored {
  int fd; /* owned by the caller; -1 */
  bool again, disconnected, connect, reopen;
  guint64 offset; /* of a mapping */
  const char *plugin; /* who answered, borrowed */
  PluginSaid said;
} PluginRestored;
/* Restore: @object as plugin_object_of() made it, or as far as it is known if no plugin of ours took it; @plugin: who
 * took it, NULL: not known; @only: nobody else is asked. Fails if nobody makes it. */
bool plugins_restore(PluginSet *set, const char *plugin, bool only, const struct checkpoint_object *object,
    PluginRestored *ret_restored, GError **error);
/* Of a network link: the plugin that took it may make it in the namespace object->fd, or leave it to others. Fails if it is not
 * here any more. */
bool plugins_restore_link(PluginSet *set, const char *plugin, const struct checkpoint_object *object, GError **error);
/* The connection @fd is there: *ret_ok says whether it is to be kept. */
bool plugins_connected(PluginSet *set, const char *plugin, const struct checkpoint_object *object, int fd, bool *ret_ok,
    PluginSaid *ret_said, GError **error);
bool plugins_restore_memory(
    PluginSet *set, const char *plugin, const struct checkpoint_object *object, int fd, GError **error);
/* An object as it is in an image; all texts are borrowed from it. */
struct checkpoint_object plugin_object_of(const PluginObject *image);
/* A deep copy, as the image has it; to be freed as protobuf-c does. */
PluginObject *plugin_object_copy(const struct checkpoint_object *object);

/* One row a plugin into the job's table "plugins", also for those that would fail to load (column "error"). */
bool plugins_list(Job *job, GError **error);
