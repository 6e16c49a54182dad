/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A short conversation with the service on a connection of its own. */

#include <stdint.h>
#include <systemd/sd-bus.h>

#define SERVICE "org.criu.Checkpoint"
#define MANAGER_PATH "/org/criu/Checkpoint"
#define MANAGER SERVICE ".Manager"
#define JOB SERVICE ".Job"
#define INTERFACE_NEEDED 2U /* the first with self-dumps */
#define SEVERAL_MINUTES (600ull * 1000000)

/* printf into *@ret_message if that is wanted and still empty; returns @r. */
int checkpoint_client_say(char **ret_message, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Held while a bus connection is open, and during a self-dump: the connection of one thread would be found to lead out of
 * the application that another one checkpoints. The only state the library has. */
void checkpoint_client_lock(void);
void checkpoint_client_unlock(void);

/* Connects and compares versions. */
int checkpoint_client_open(const char *address, sd_bus **ret, char **ret_message);

/* Calls @method; what is wrong becomes a message and a negative errno. */
int checkpoint_client_call(
    sd_bus *bus, sd_bus_message *call, uint64_t timeout_usec, sd_bus_message **ret, char **ret_message);

/* -EPIPE and friends: it is the service or the bus that is gone, not the call that is wrong. */
int checkpoint_client_is_lost(int r);
