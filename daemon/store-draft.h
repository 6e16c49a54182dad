/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "store.h"

/* What the two halves of the store share: its directories, and the books it keeps. */

#define DRAFT_PREFIX ".tmp-"

int store_fd(const Store *store);

/* Directory descriptor of STORE/UID, made when @create. Negative errno. */
int store_open_user(Store *store, uid_t uid, bool create);

/* A checkpoint of @uid came or went: what was counted is counted anew when asked. */
void store_usage_changed(Store *store, uid_t uid);

/* STORE/UID/@name holds a complete checkpoint (its inventory is there). */
bool store_is_complete(int user_fd, const char *name);
