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
 * one) and begins them. An installed directory that is not there is an empty one. PLUGIN_FAILED names the first plugin
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

/* Dump: asks about one object. @only: none but the plugin of that name is asked; NULL: all. *ret_plugin is the name of
 * who took it, borrowed; NULL: nobody did. */
bool plugins_dump(
    PluginSet *set, const struct checkpoint_object *object, const char *only, const char **ret_plugin, GError **error);
/* An id for an object that is no file. */
guint64 plugins_new_id(PluginSet *set);
/* The same for the content of a private mapping, which gets its id here. */
bool plugins_dump_memory(
    PluginSet *set, const struct checkpoint_object *object, const char **ret_plugin, GError **error);
/* The names of plugins that could take objects of @kind but are only asked by a dump (EXPLAIN); NULL: none. Newly
 * allocated. */
char *plugins_unasked(const PluginSet *set, guint32 kind);
/* Moves what the plugins took, with all records, into the checkpoint. */
void plugins_store(PluginSet *set, Checkpoint *checkpoint);

/* What became of an object at a restore. */
typedef struct PluginRestored {
  int fd; /* owned by the caller; -1 */
  bool again, disconnected;
  guint64 offset; /* of a mapping */
} PluginRestored;
/* Restore: @object as plugin_object_of() made it, or as far as it is known if no plugin of ours took it; @plugin: who
 * took it, NULL: not known. Fails if nobody makes it. */
bool plugins_restore(PluginSet *set, const char *plugin, const struct checkpoint_object *object,
    PluginRestored *ret_restored, GError **error);
bool plugins_restore_memory(
    PluginSet *set, const char *plugin, const struct checkpoint_object *object, int fd, GError **error);
/* An object as it is in an image; all texts are borrowed from it. */
struct checkpoint_object plugin_object_of(const PluginObject *image);

/* One row a plugin into the job's table "plugins", also for those that would fail to load (column "error"). */
bool plugins_list(Job *job, GError **error);
