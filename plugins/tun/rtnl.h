/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Addresses and routes of one network device, as rtnetlink(7) messages without their header. */

#include <stddef.h>
#include <stdint.h>

/* Called for every message; non-zero ends the list and is its result. */
typedef int (*RtnlVisitor)(void *data, const void *message, size_t size);

/* RTM_GETADDR or RTM_GETROUTE: those of device @index that an administrator made (the kernel makes the others again by
 * itself). 0 or a negative errno. */
int rtnl_list(int type, unsigned index, RtnlVisitor visit, void *data);
/* RTM_NEWADDR or RTM_NEWROUTE: makes one for device @index, which may be another one than it was. One that is there
 * already is fine. -EBADMSG: it is none. */
int rtnl_add(int type, unsigned index, const void *message, size_t size);
