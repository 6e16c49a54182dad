/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Connections that a restored task makes itself, with its final credentials: to servers outside the tree, which see in
 * SO_PEERCRED who comes, and to listeners in the tree that had not accepted yet. */

#include "internal.h"
#include "sk-unix.pb-c.h"

/* The socket of @u (bound already, if it is to be) is connected to @address (a sun_path) when its holder has its
 * credentials, and says @send (may be NULL) there first. Both are kept. */
void unix_connect_later(Restorer *r, const UnixSkEntry *u, GBytes *address, GBytes *send);
