/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the doors and the dispatch share. */

#include "dispatch.h"

typedef enum PluginCallback {
  PLUGIN_CALL_INIT,
  PLUGIN_CALL_FINI,
  PLUGIN_CALL_BEGIN,
  PLUGIN_CALL_END,
  PLUGIN_CALL_DUMP, /* object: unix socket, file, mapping, mount, link */
  PLUGIN_CALL_RESTORE,
  PLUGIN_CALL_MEMORY_DUMP,
  PLUGIN_CALL_MEMORY_RESTORE,
  PLUGIN_CALL_MOMENT,
  PLUGIN_CALL_CONNECTED,
  PLUGIN_N_CALLS
} PluginCallback;

/* One question to one plugin. */
typedef struct PluginCall {
  PluginCallback callback;
  const struct checkpoint_object *object; /* NULL: about none */
  enum checkpoint_moment moment;
  pid_t pid;
  guint64 count;            /* BEGIN: objects */
  int result;               /* FINI: 0 or a negative errno */
  int fd;                   /* in: MEMORY_RESTORE, where to write, CONNECTED; out: RESTORE, the new descriptor, -1 */
  guint64 offset;           /* in and out: RESTORE of a mapping */
  PluginSaid said;          /* out, owned by whoever asked */
  const GPtrArray *records; /* RESTORE, MEMORY_RESTORE, INIT: GBytes, those of the object or the plugin; may be NULL */
} PluginCall;

typedef struct Plugin Plugin;

/* One door. Answers of `call` are those of checkpoint-plugin.h: 0, CHECKPOINT_AGAIN, CHECKPOINT_DISCONNECTED, -ENOTSUP
 * (also where there is no such callback), or another negative errno. */
typedef struct PluginDoor {
  const char *name; /* "by-name", "criu", "native", "process" */
  int (*call)(Plugin *p, PluginCall *call);
  /* How the plugin's author knows the callback: "cr_plugin_dump_file", "DUMP_EXT_FILE", "dump"; NULL: it has none. */
  const char *(*callback)(const Plugin *p, const PluginCall *call);
  void (*close)(Plugin *p);
  bool in_process;
} PluginDoor;

struct Plugin {
  PluginSet *set;
  const PluginDoor *door;
  char *name, *version, *description;
  char *file; /* in the directory */
  guint32 kinds, flags;
  int priority;
  char **after; /* names; NULL: none */
  void *library;
  void *self; /* the door's */
  struct checkpoint_host host;
  char *trouble; /* of a process: what happened besides the errno; owned */
  bool begun;
  bool on_demand;    /* only asked by name */
  bool old_answers;  /* of `dump`: whatever is not negative means taken */
  PluginCall *call;  /* the present one, borrowed; NULL */

  GPtrArray *taken;          /* CkptPluginObject: dump */
  GPtrArray *records;        /* GBytes of the plugin itself */
  GHashTable *kept;          /* guint64* id -> GPtrArray of GBytes: restore */
  GArray *descriptors;       /* Descriptor: its own, open now */
  CkptPluginObject *current; /* dump: of the object in question, borrowed; NULL */
};

struct PluginSet {
  Job *job;
  enum checkpoint_stage stage;
  const Checkpoint *checkpoint;
  GPtrArray *plugins; /* Plugin, in the order of questions */
  int images_fd;      /* a duplicate for plugins, -1 */
  guint64 memory_ids;
  guint64 record_bytes; /* kept in this job */
  guint64 n_objects;    /* of begin */
  bool begun;           /* begin has been told */
  bool naming;          /* what is opened now is loaded on demand */
  bool untrusted;       /* the images may be the caller's */
  PluginServices services;
};

/* --- directory.c --- */

/* All plugins of the directory, opened but not begun, in order. @broken: what cannot be loaded is kept as a Plugin
 * without a door and with its trouble set, instead of failing. */
GPtrArray *directory_load(PluginSet *set, bool broken, GError **error);
/* The same of all that are loaded on demand, with what cannot be loaded: for lists. */
GPtrArray *directory_load_on_demand(PluginSet *set, GError **error);
void plugin_free(Plugin *p);
/* One that is loaded on demand, opened but not begun. NULL without an error: there is none of that name. */
Plugin *directory_load_named(PluginSet *set, const char *name, GError **error);
/* "/proc/self/fd/N" of an open file in the plugin directory that is safe to load: owner and mode were checked. -1 with
 * error. */
int directory_open_file(const PluginSet *set, int dir_fd, const char *name, GError **error);
/* The path, without links, of a program that an absolute path names, if only root can change what lies there. NULL with error. */
char *directory_find_program(const PluginSet *set, const char *program, GError **error);
/* Letters, digits, '-', '_', '.'; at most 64. */
bool plugin_name_is_valid(const char *name);

/* --- the doors: false without error: the library has no such door --- */

bool abi_named_open(Plugin *p);
bool abi_criu_open(Plugin *p, GError **error);
bool abi_native_open(Plugin *p, GError **error);
/* @dir_fd: the plugin directory, borrowed; @manifest: the open file. */
bool process_open(Plugin *p, int dir_fd, int manifest, GError **error);
/* What criu_get_image_dir() and print_on_level() refer to while a plugin of the old doors is called: NULL: none. */
void abi_criu_set_current(Plugin *p);

/* --- abi-native.c --- */

/* What plugins of the third door may call, for one in this process or for what a program asks. */
void plugin_host_init(Plugin *p);

/* --- abi-criu.c --- */

/* Mounts through an old door: @f is its callback. */
int plugin_dump_mount(void *f, const PluginCall *call);
int plugin_restore_mount(void *f, PluginCall *call);

/* --- services.c --- */

/* Fills what came with revision 2. */
void services_init(struct checkpoint_host *host);
int services_connect_to(Plugin *p, const char *address, const void *first, size_t size);
void services_explain(Plugin *p, const char *reason, const char *cure);
/* Which plugin has been asked and what its answer means; see checkpoint-plugin.h. */
bool services_may_answer(const Plugin *p, const PluginCall *call, int answer);

/* --- records.c --- */

int records_add(Plugin *p, guint64 id, const void *data, size_t size);
/* NULL: there are none. */
const GPtrArray *records_of(const Plugin *p, guint64 id);
/* From the checkpoint's. */
void records_load(Plugin *p, const Checkpoint *checkpoint);
CkptPluginObject *records_object_new(const Plugin *p, const struct checkpoint_object *o);
/* Packs an object; everything in @ret is borrowed from @o. */
void object_to_image(const struct checkpoint_object *o, PluginObject *ret);

/* --- watchdog.c --- */

/* Ends this process if the plugin does not return in time, or give a sign of life, which starts it again. */
void watchdog_start(const Plugin *p);
void watchdog_stop(void);

/* --- descriptors.c --- */

/* What is open in this process, for the comparison before and after a call. */
typedef struct Descriptor {
  int fd;
  guint64 dev, ino;
} Descriptor;
GArray *descriptors_now(void);
/* After a call: what appeared is the plugin's now. false with error: one of the engine's own is gone or another. */
bool descriptors_compare(Plugin *p, const GArray *before, GError **error);
/* Takes @fd from the plugin: false if it is not one of its own. */
bool descriptors_take(Plugin *p, int fd);
/* After its end: names and closes what is still open. */
void descriptors_close_leaks(Plugin *p);

/* checkpoint_host.caller */
guint32 plugins_caller(const PluginSet *set);
/* Log line with the plugin's name in front. */
void plugin_log(const Plugin *p, int priority, const char *text);
/* ObjectHandled. */
void plugin_report(
    Plugin *p, const char *kind, guint64 id, const char *action, const PluginCall *call, guint64 done, guint64 total);
const char *plugin_kind_name(guint32 kind);
