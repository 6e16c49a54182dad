/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Namespaces of the tree's own, before anything is made of them. */
#include "verify.h"
#include <limits.h>
#include <sched.h>
#include <string.h>

#define MANY_MOUNTS 100000 /* the kernel's own limit for a namespace (fs.mount-max) */
#define NAME_LIMIT 64      /* uname(2) */

/* Absolute, and leads nowhere but down. */
static bool is_plain_path(const char *path) {
  size_t n = strlen(path);
  return path[0] == '/' && n < PATH_MAX && !strstr(path, "/../") && !g_str_has_suffix(path, "/..");
}

static bool verify_mount(const NsImage *ns, guint i, GHashTable *seen, GError **error) {
  const MntEntry *m = ns->mounts->pdata[i];
  gpointer parent = NULL;
  if (!m->mnt_id || m->mnt_id > G_MAXINT32 || !is_plain_path(m->mountpoint))
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "mount %u: \"%s\" is no place for one", m->mnt_id, m->mountpoint);
  if (g_hash_table_contains(seen, GUINT_TO_POINTER(m->mnt_id)))
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "mount %u is there twice", m->mnt_id);
  if (i == 0 && strcmp(m->mountpoint, "/") != 0)
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "the first mount, %u, is not the root", m->mnt_id);
  if (i > 0 && !g_hash_table_lookup_extended(seen, GUINT_TO_POINTER(m->parent_mnt_id), NULL, &parent))
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "mount %u: its parent %u does not come before it", m->mnt_id, m->parent_mnt_id);
  const char *above = parent ? ((const MntEntry *)parent)->mountpoint : "/";
  size_t n = strcmp(above, "/") == 0 ? 0 : strlen(above);
  if (strncmp(m->mountpoint, above, n) != 0 || (m->mountpoint[n] && m->mountpoint[n] != '/'))
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "mount %u: %s does not lie below its parent, %s", m->mnt_id, m->mountpoint, above);
  g_hash_table_insert(seen, GUINT_TO_POINTER(m->mnt_id), (gpointer)m);
  return true;
}

static bool verify_mounts(const NsImage *ns, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  if (!ns->mounts->len || ns->mounts->len > MANY_MOUNTS)
    return image_invalid(error, IMAGE_MOUNTS, ns->id, "a namespace of %u mounts", ns->mounts->len);
  for (guint i = 0; i < ns->mounts->len; i++)
    if (!verify_mount(ns, i, seen, error))
      return false;
  return true;
}

static bool verify_uts(const NsImage *ns, GError **error) {
  if (!ns->uts || strlen(ns->uts->nodename) > NAME_LIMIT || strlen(ns->uts->domainname) > NAME_LIMIT)
    return image_invalid(error, IMAGE_UTSNS, ns->id, "names of more than %d characters", NAME_LIMIT);
  return true;
}

static bool is_text(const ProtobufCBinaryData *d) {
  return d->len && d->len < PATH_MAX && d->data[0] == '/' && !memchr(d->data, 0, d->len);
}

/* What checkpoint.img says about them. */
static bool verify_details(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < c->mounts->len; i++) {
    const CkptMount *m = c->mounts->pdata[i];
    const MntEntry *e = checkpoint_find_mount_entry(c, m->mnt_id);
    const MntEntry *of = m->has_bind_of ? checkpoint_find_mount_entry(c, m->bind_of) : NULL;
    if (!e || !g_hash_table_add(seen, GUINT_TO_POINTER(m->mnt_id)))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "mount %u is in no namespace, or described twice", m->mnt_id);
    if (m->has_bind_of && (!of || checkpoint_find_mount_entry(c, m->bind_of) == e))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "mount %u shows mount %u, which there is not", m->mnt_id, m->bind_of);
    if ((m->has_source && !is_text(&m->source)) || (m->has_shared_with && !is_text(&m->shared_with)) ||
        (m->has_slave_of && !is_text(&m->slave_of)))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "mount %u has a source that is no path", m->mnt_id);
  }
  return true;
}

bool verify_namespaces(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->namespaces->len; i++) {
    const NsImage *ns = c->namespaces->pdata[i];
    if (ns->kind == CLONE_NEWNS ? !verify_mounts(ns, error) : ns->kind == CLONE_NEWUTS && !verify_uts(ns, error))
      return false;
  }
  return verify_details(c, error);
}
