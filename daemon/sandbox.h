/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Locks this process down for good, once everything it needs is open: no capabilities
 * (all five sets, securebits locked), no_new_privs, Landlock (the store at @store_path
 * and reading /proc; where the kernel has Landlock), and a seccomp allow-list.
 * Negative errno: the process must not go on. Builds with a sanitizer leave the
 * seccomp filter out, which the sanitizer's own syscalls would violate. */
int sandbox_enter(const char *store_path);
