/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Where the restore meets plugins (docs/plugins.md says what is called when). */

#include "dispatch.h"
#include "external.h"

typedef struct PluginReturn PluginReturn;
/* @set is borrowed. */
PluginReturn *plugin_return_new(PluginSet *set, Restorer *restorer);
void plugin_return_free(PluginReturn *ret);

/* Asks about every object that is theirs until none wants to be asked again (those that nobody has are left for
 * later). What came back is kept for plugin_return_ask(). */
bool plugin_return_prepare(PluginReturn *ret, GError **error);
/* While that runs: nothing is made yet of what was asked. @ret may be NULL. */
bool plugin_return_is_preparing(const PluginReturn *ret);
/* About one object; ret_answer says whom (plugin, only), and with what argument (value), and gets the answer. */
bool plugin_return_ask(PluginReturn *ret, const ExternalObject *object, ExternalAnswer *ret_answer, GError **error);
/* When every task has made its connections, and none runs yet: plugins say there what they have to say. */
bool plugin_return_connected(PluginReturn *ret, GError **error);

/* The file (borrowed) and offset to map for an entry with VMA_EXT_PLUGIN. */
bool plugin_return_mapping(
    PluginReturn *ret, const Task *task, const VmaEntry *vma, int *ret_fd, guint64 *ret_pgoff, GError **error);
/* Asks for all memory that plugins took. */
bool plugin_return_fill(PluginReturn *ret, GError **error);
/* How much of it will be read, in bytes. */
guint64 plugin_return_bytes(const PluginReturn *ret);
/* Adds what brings it into a task, whose mappings are made. */
bool plugin_return_build(PluginReturn *ret, const Task *task, bool inherited, Program *p, GError **error);
/* Whether that concerns a mapping. @ret may be NULL. */
bool plugin_return_has(const PluginReturn *ret, const Task *task, const VmaEntry *vma);
