/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What plugins keep in a checkpoint: objects that they took, and bytes for them. */

#include "plugin-private.h"
#include <errno.h>
#include <string.h>

#define RECORDS_MAX (32ull << 20) /* of all plugins: checkpoint.img has to be read again, at once */

static char *copy_text(const char *text) {
  return text ? strdup(text) : NULL;
}

/* The socket names of an image are bytes: ours are text already. */
static ProtobufCBinaryData lend(const char *text) {
  return (ProtobufCBinaryData){.len = text ? strlen(text) : 0, .data = (guint8 *)text};
}

void object_to_image(const struct checkpoint_object *o, PluginObject *m) {
  plugin_object__init(m);
  m->kind = o->kind;
  m->id = o->id;
  m->has_pid = o->pid != 0, m->pid = o->pid;
  m->has_number = o->number >= 0, m->number = o->number;
  m->comm = (char *)o->comm;
  m->has_flags = o->flags != 0, m->flags = o->flags;
  m->has_mode = o->mode != 0, m->mode = o->mode;
  m->has_dev = o->dev != 0, m->dev = o->dev;
  m->has_ino = o->ino != 0, m->ino = o->ino;
  m->has_rdev = o->rdev != 0, m->rdev = o->rdev;
  m->has_path = o->path != NULL, m->path = lend(o->path);
  m->has_socket_type = o->socket_type != 0, m->socket_type = o->socket_type;
  m->has_socket_state = o->socket_state != 0, m->socket_state = o->socket_state;
  m->has_socket_name = o->socket_name != NULL, m->socket_name = lend(o->socket_name);
  m->has_peer_ino = o->peer_ino != 0, m->peer_ino = o->peer_ino;
  m->has_peer_pid = o->peer_pid != 0, m->peer_pid = o->peer_pid;
  m->has_peer_uid = o->peer_uid != G_MAXUINT32, m->peer_uid = o->peer_uid;
  m->has_peer_gid = o->peer_gid != G_MAXUINT32, m->peer_gid = o->peer_gid;
  m->has_unread = o->unread != 0, m->unread = o->unread;
  m->peer_comm = (char *)o->peer_comm;
  m->has_peer_name = o->peer_name != NULL, m->peer_name = lend(o->peer_name);
  m->has_start = o->end != 0, m->start = o->start;
  m->has_end = o->end != 0, m->end = o->end;
  m->has_offset = o->offset != 0, m->offset = o->offset;
  m->has_protection = o->end != 0, m->protection = o->protection;
  m->has_shared = o->shared != 0, m->shared = o->shared != 0;
  m->argument = (char *)o->argument;
  m->has_link_index = m->has_link_type = o->kind == CHECKPOINT_KIND_LINK;
  m->link_index = o->link_index, m->link_type = o->link_type;
  m->link_kind = (char *)o->link_kind;
  m->has_filesystem = o->filesystem != NULL, m->filesystem = lend(o->filesystem);
  m->has_source = o->source != NULL, m->source = lend(o->source);
  m->has_target = o->target != NULL, m->target = lend(o->target);
  m->has_outside = o->outside != NULL, m->outside = lend(o->outside);
}

/* Bytes fields are allocated by protobuf-c without a terminating zero: records_check() has added or refused it. */
static const char *text_of(protobuf_c_boolean has, const ProtobufCBinaryData *bytes) {
  return has && bytes->data && memchr(bytes->data, '\0', bytes->len) ? (const char *)bytes->data : NULL;
}

struct checkpoint_object plugin_object_of(const PluginObject *m) {
  return (struct checkpoint_object){
      .size = sizeof(struct checkpoint_object),
      .kind = m->kind,
      .id = m->id,
      .pid = m->pid,
      .number = m->number,
      .comm = m->comm,
      .fd = -1,
      .flags = m->flags,
      .mode = m->mode,
      .dev = m->dev,
      .ino = m->ino,
      .rdev = m->rdev,
      .path = text_of(m->has_path, &m->path),
      .socket_type = m->socket_type,
      .socket_state = m->socket_state,
      .socket_name = text_of(m->has_socket_name, &m->socket_name),
      .peer_ino = m->peer_ino,
      .peer_pid = m->peer_pid,
      .peer_uid = m->peer_uid,
      .peer_gid = m->peer_gid,
      .unread = m->unread,
      .peer_comm = m->peer_comm,
      .peer_name = text_of(m->has_peer_name, &m->peer_name),
      .start = m->start,
      .end = m->end,
      .offset = m->offset,
      .protection = m->protection,
      .shared = m->shared,
      .argument = m->argument,
      .link_index = m->link_index,
      .link_type = m->link_type,
      .link_kind = m->link_kind,
      .filesystem = text_of(m->has_filesystem, &m->filesystem),
      .source = text_of(m->has_source, &m->source),
  };
}

/* A deep copy as protobuf-c frees it. The texts in bytes fields keep their terminating zero in the image, so that they
 * can be lent as they are. */
PluginObject *plugin_object_copy(const struct checkpoint_object *o) {
  PluginObject lent;
  object_to_image(o, &lent);
  ProtobufCBinaryData *const texts[] = {&lent.path, &lent.socket_name, &lent.peer_name, &lent.filesystem, &lent.source, &lent.target, &lent.outside};
  for (size_t i = 0; i < G_N_ELEMENTS(texts); i++)
    texts[i]->len += texts[i]->data != NULL;
  size_t size = plugin_object__get_packed_size(&lent);
  g_autofree guint8 *packed = g_malloc(size);
  (void)plugin_object__pack(&lent, packed);
  return plugin_object__unpack(NULL, size, packed);
}

CkptPluginObject *records_object_new(const Plugin *p, const struct checkpoint_object *o) {
  CkptPluginObject *m = g_new(CkptPluginObject, 1);
  ckpt_plugin_object__init(m);
  m->plugin = copy_text(p->name);
  m->object = plugin_object_copy(o);
  return m;
}

static void add_record(CkptPluginObject *m, const void *data, size_t size) {
  m->records = g_renew(ProtobufCBinaryData, m->records, m->n_records + 1);
  m->records[m->n_records++] = (ProtobufCBinaryData){.len = size, .data = g_memdup2(data, size)};
}

static CkptPluginObject *find_taken(const Plugin *p, guint64 id) {
  if (p->current && p->current->object->id == id)
    return p->current;
  for (guint i = 0; i < p->taken->len; i++) {
    CkptPluginObject *m = p->taken->pdata[i];
    if (m->object->id == id)
      return m;
  }
  return NULL;
}

int records_add(Plugin *p, guint64 id, const void *data, size_t size) {
  if (p->set->stage != CHECKPOINT_STAGE_DUMP && p->set->stage != CHECKPOINT_STAGE_EXPLAIN) /* there it is forgotten */
    return -EROFS;
  if (size > CHECKPOINT_RECORD_MAX)
    return -E2BIG;
  if (size && !data)
    return -EFAULT;
  if (p->set->record_bytes + size > RECORDS_MAX)
    return -EDQUOT;
  p->set->record_bytes += size;
  job_add_bytes(p->set->job, size);
  if (!id) {
    g_ptr_array_add(p->records, g_bytes_new(data, size));
    return 0;
  }
  CkptPluginObject *m = find_taken(p, id);
  if (!m)
    return -ENOENT;
  add_record(m, data, size);
  return 0;
}

const GPtrArray *records_of(const Plugin *p, guint64 id) {
  return g_hash_table_lookup(p->kept, &id);
}

static void keep(Plugin *p, guint64 id, const ProtobufCBinaryData *records, size_t n) {
  GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
  for (size_t i = 0; i < n; i++)
    g_ptr_array_add(all, g_bytes_new(records[i].data, records[i].len));
  g_hash_table_replace(p->kept, g_memdup2(&id, sizeof id), all);
}

/* Before dbus was a plugin, what it keeps stood beside the object. */
static void load_older(Plugin *p, const Checkpoint *checkpoint) {
  for (guint i = 0; !strcmp(p->name, "dbus") && i < checkpoint->externals->len; i++) {
    const CkptExternal *e = checkpoint->externals->pdata[i];
    if (!e->bus || e->plugin)
      continue;
    size_t size = ckpt_bus__get_packed_size(e->bus);
    g_autofree guint8 *packed = g_malloc(size);
    const ProtobufCBinaryData record = {.len = ckpt_bus__pack(e->bus, packed), .data = packed};
    keep(p, e->file_id, &record, 1);
  }
}

void records_load(Plugin *p, const Checkpoint *checkpoint) {
  for (guint i = 0; i < checkpoint->plugins->len; i++) {
    const CkptPlugin *m = checkpoint->plugins->pdata[i];
    if (!strcmp(m->name, p->name))
      keep(p, 0, m->records, m->n_records);
  }
  for (guint i = 0; i < checkpoint->plugin_objects->len; i++) {
    const CkptPluginObject *m = checkpoint->plugin_objects->pdata[i];
    if (!strcmp(m->plugin, p->name))
      keep(p, m->object->id, m->records, m->n_records);
  }
  load_older(p, checkpoint);
}

static CkptPlugin *plugin_message(const Plugin *p) {
  CkptPlugin *m = g_new(CkptPlugin, 1);
  ckpt_plugin__init(m);
  m->name = copy_text(p->name);
  m->version = copy_text(p->version);
  m->door = copy_text(p->door->name);
  m->records = g_new0(ProtobufCBinaryData, p->records->len);
  for (; m->n_records < p->records->len; m->n_records++) {
    gsize size = 0;
    gconstpointer data = g_bytes_get_data(p->records->pdata[m->n_records], &size);
    m->records[m->n_records] = (ProtobufCBinaryData){.len = size, .data = g_memdup2(data, size)};
  }
  return m;
}

void plugins_store(PluginSet *set, Checkpoint *checkpoint) {
  for (guint i = 0; set && i < set->plugins->len; i++) {
    Plugin *p = set->plugins->pdata[i];
    if (!p->taken->len && !p->records->len)
      continue;
    g_ptr_array_add(checkpoint->plugins, plugin_message(p));
    while (p->taken->len)
      g_ptr_array_add(checkpoint->plugin_objects, g_ptr_array_steal_index(p->taken, 0));
  }
}
