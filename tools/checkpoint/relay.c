// SPDX-License-Identifier: LGPL-2.1-or-later
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

static void pass_size(int master) {
  struct winsize size;
  if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
    (void)ioctl(master, TIOCSWINSZ, &size);
}

int relay_open(Relay *relay) {
  struct termios settings;
  *relay = RELAY_NONE;
  if (tcgetattr(STDIN_FILENO, &settings) < 0)
    return 0;
  relay->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (relay->master < 0)
    return -errno;
  if (grantpt(relay->master) < 0 || unlockpt(relay->master) < 0 ||
      (relay->slave = ioctl(relay->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
    int e = errno;
    relay_close(relay);
    return -e;
  }
  (void)tcsetattr(relay->slave, TCSANOW, &settings);
  pass_size(relay->master);
  return 0;
}

void relay_hand_over(Relay *relay) {
  if (relay->slave >= 0)
    (void)close(relay->slave);
  relay->slave = -1;
}

void relay_close(Relay *relay) {
  relay_hand_over(relay);
  if (relay->master >= 0)
    (void)close(relay->master);
  relay->master = -1;
}

static bool pass(int from, int to) {
  char bytes[4096];
  ssize_t got = read(from, bytes, sizeof bytes);
  if (got < 0 && (errno == EINTR || errno == EAGAIN))
    return true;
  for (ssize_t at = 0; at < got;) {
    ssize_t done = write(to, bytes + at, (size_t)(got - at));
    if (done < 0 && errno != EINTR)
      return false;
    at += done > 0 ? done : 0;
  }
  return got > 0;
}

// False at a signal that ends it.
static bool take_signal(int signals, int master) {
  struct signalfd_siginfo info;
  if (read(signals, &info, sizeof info) != sizeof info)
    return true;
  if (info.ssi_signo != SIGWINCH)
    return false;
  pass_size(master);
  return true;
}

static void loop(int master, int signals) {
  struct pollfd fds[] = {{master, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}, {signals, POLLIN, 0}};
  bool going = true;
  while (going) {
    if (poll(fds, sizeof fds / sizeof *fds, -1) < 0 && errno != EINTR)
      return;
    // Its last words first: a read of a master that has none left fails when the other end is closed.
    if (fds[0].revents)
      going = pass(master, STDOUT_FILENO);
    if (going && fds[1].revents)
      going = pass(STDIN_FILENO, master);
    if (going && fds[2].revents)
      going = take_signal(signals, master);
  }
}

void relay_run(Relay *relay) {
  struct termios before, raw;
  sigset_t wanted, old;
  if (relay->master < 0 || tcgetattr(STDIN_FILENO, &before) < 0)
    return;
  (void)sigemptyset(&wanted);
  (void)sigaddset(&wanted, SIGWINCH);
  (void)sigaddset(&wanted, SIGTERM);
  (void)sigaddset(&wanted, SIGHUP);
  (void)sigprocmask(SIG_BLOCK, &wanted, &old);
  int signals = signalfd(-1, &wanted, SFD_CLOEXEC);
  raw = before;
  cfmakeraw(&raw);
  if (signals >= 0 && tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0) {
    pass_size(relay->master);
    loop(relay->master, signals);
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
  }
  if (signals >= 0)
    (void)close(signals);
  (void)sigprocmask(SIG_SETMASK, &old, NULL);
}
