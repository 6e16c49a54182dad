/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A client of a message bus (D-Bus), seen from outside: before a dump the bus is asked what it knows of the client's
 * connection; after a restore the new connection is brought to the same state on the client's behalf. Its unique name
 * is another one afterwards. */

#include "external.h"

/* What the bus knows of the connection behind @object: names it owns or waits for, match rules. NULL without an error:
 * it cannot be known, *ret_why (owned) says why. */
CkptBus *bus_client_inspect(Collector *c, const ExternalObject *object, char **ret_why);
/* Whether a bus accepts connections there; as the user of @bus. */
bool bus_client_is_there(const CkptBus *bus, const guint8 *name, gsize size);
/* Authenticates the fresh connection @fd, says Hello, asks for the names and adds the match rules. false with error. */
bool bus_client_return(const CkptBus *bus, int fd, GError **error);
