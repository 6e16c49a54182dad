// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

// A pseudo terminal between the user's terminal and an application that is not of this session.
typedef struct Relay {
  int master; // -1: there is none
  int slave;  // for the application; -1: handed over
} Relay;

#define RELAY_NONE ((Relay){.master = -1, .slave = -1})

// A new pseudo terminal with the size and the settings of standard input, if that is a terminal; else none, which is no
// error. Returns 0 or a negative errno.
int relay_open(Relay *relay);

// Closes the application's end here: the application alone holds it from now on.
void relay_hand_over(Relay *relay);

// Passes bytes and sizes to and fro until the application's end is closed by all of its holders, or a SIGTERM, SIGHUP or the
// end of standard input; the user's terminal is raw meanwhile. Does nothing without a pseudo terminal.
void relay_run(Relay *relay);

void relay_close(Relay *relay);
