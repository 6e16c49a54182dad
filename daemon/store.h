/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The checkpoints of all users: STORE/UID/NAME/{meta,images/}. See docs/service.md. */
typedef struct Store Store;

/* Opens the store, creating it (root's, mode 0700) where it is missing. */
Store *store_new(const char *path, GError **error);
void store_free(Store *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Store, store_free)

/* Recovers or removes what an earlier instance left unfinished. Logs. */
void store_recover(Store *store);

/* 1 to 128 of [A-Za-z0-9._-+@:], not beginning with a dot. Else InvalidArgs. */
bool store_check_name(const char *name, GError **error);

bool store_has(Store *store, uid_t uid, const char *name);

/* Bytes on disk and number of the checkpoints of @uid. */
void store_usage(Store *store, uid_t uid, uint64_t *ret_bytes, uint32_t *ret_count);

/* Bytes an unprivileged writer could still write into the store's file system. */
uint64_t store_free_bytes(Store *store);

/* Directory descriptor of the images of a complete checkpoint (caller closes), or -1:
 * NoSuchCheckpoint, or ImageInvalid for one that is not complete. */
int store_open_images(Store *store, uid_t uid, const char *name, GError **error);

/* What the service noted when the checkpoint was made: a{sv}, with "name" and "owner". */
GVariant *store_describe(Store *store, uid_t uid, const char *name, GError **error);

/* Calls @visit for each complete checkpoint of @uid, or of everybody for (uid_t)-1. */
typedef void (*StoreVisitor)(const char *name, GVariant *description, void *userdata);
void store_list(Store *store, uid_t uid, StoreVisitor visit, void *userdata);

bool store_remove(Store *store, uid_t uid, const char *name, GError **error);

/* Job ids are handed out from here, so that they outlive the process. */
uint64_t store_next_job_id(Store *store);

/* A checkpoint being made, in STORE/UID/.tmp-ID. */
typedef struct StoreDraft StoreDraft;
StoreDraft *store_draft_new(Store *store, uid_t uid, const char *name, uint64_t id, GVariant *note, GError **error);
int store_draft_images_fd(const StoreDraft *draft); /* stays the draft's */

/* Gives the draft its name, in place of an old checkpoint if there is one. @note (a{sv})
 * is what store_describe() will answer. On failure the draft is kept on disk, since
 * its application may be gone; the error says where. */
bool store_draft_commit(StoreDraft *draft, GVariant *note, bool durable, GError **error);

/* Removes what has not been committed. */
void store_draft_free(StoreDraft *draft);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreDraft, store_draft_free)
