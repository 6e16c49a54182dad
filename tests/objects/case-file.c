/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- regular files --- */

static const char *regular_setup(const char *dir) {
  const char *path = case_path(dir, "regular");
  REQUIRE(case_place(open(path, O_CREAT | O_RDWR, 0640), 10));
  REQUIRE(write(10, "0123456789", 10) == 10 && lseek(10, 4, SEEK_SET) == 4);
  REQUIRE(case_place(open(path, O_WRONLY | O_APPEND | O_CLOEXEC), 11));
  REQUIRE(dup2(10, 12) == 12);
  REQUIRE(case_place(open(path, O_RDONLY), 13) && lseek(13, 4, SEEK_SET) == 4);
  REQUIRE(case_place(open(path, O_RDWR), 14) && lseek(14, 4, SEEK_SET) == 4);
  REQUIRE(case_place(open(dir, O_RDONLY | O_DIRECTORY), 15));
  REQUIRE(case_place(open(path, O_PATH), 16));
  REQUIRE(fcntl(11, F_SETFD, FD_CLOEXEC) == 0);
  return NULL;
}

static const char *regular_verify(const char *dir) {
  char buffer[16];
  REQUIRE(lseek(10, 0, SEEK_CUR) == 4 && read(10, buffer, 3) == 3 && memcmp(buffer, "456", 3) == 0);
  REQUIRE(lseek(12, 0, SEEK_CUR) == 7 && lseek(12, 4, SEEK_SET) == 4);
  REQUIRE(case_same(10, 12) && !case_same(10, 14) && !case_same(10, 13));
  REQUIRE(fcntl(11, F_GETFL) & O_APPEND && (fcntl(11, F_GETFL) & O_ACCMODE) == O_WRONLY);
  REQUIRE(fcntl(11, F_GETFD) == FD_CLOEXEC && fcntl(10, F_GETFD) == 0);
  REQUIRE((fcntl(13, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDONLY);
  REQUIRE(lseek(13, 0, SEEK_CUR) == 4 && lseek(14, 0, SEEK_CUR) == 4);
  REQUIRE(fcntl(15, F_GETFL) & O_DIRECTORY && case_link_is(15, dir));
  REQUIRE(fcntl(16, F_GETFL) & O_PATH && case_link_is(16, case_path(dir, "regular")));
  return NULL;
}

/* --- devices without state --- */

static const char *devices_setup(const char *dir) {
  REQUIRE(case_place(open("/dev/null", O_RDWR), 20) && case_place(open("/dev/zero", O_RDONLY), 21));
  REQUIRE(case_place(open("/dev/full", O_WRONLY), 22) && case_place(open("/dev/urandom", O_RDONLY | O_NONBLOCK), 23));
  REQUIRE(case_place(open("/dev/random", O_RDONLY), 24) && case_place(open("/dev/null", O_RDWR), 25));
  return NULL;
}

static const char *devices_verify(const char *dir) {
  char c = 1;
  REQUIRE(write(20, "x", 1) == 1 && read(20, &c, 1) == 0);
  REQUIRE(read(21, &c, 1) == 1 && c == 0);
  REQUIRE(write(22, "x", 1) == -1 && case_link_is(22, "/dev/full"));
  REQUIRE(read(23, &c, 1) == 1 && fcntl(23, F_GETFL) & O_NONBLOCK);
  REQUIRE(case_link_is(24, "/dev/random") && !case_same(20, 25));
  return NULL;
}

/* --- deleted files --- */

static const char *deleted_setup(const char *dir) {
  const char *path = case_path(dir, "gone");
  REQUIRE(case_place(open(path, O_CREAT | O_RDWR, 0600), 30));
  REQUIRE(write(30, "deleted", 7) == 7 && pwrite(30, "far", 3, 1 << 20) == 3 && lseek(30, 2, SEEK_SET) == 2);
  REQUIRE(fchown(30, 12, 34) == 0 && fchmod(30, 0604) == 0);
  struct timespec times[2] = {{.tv_sec = 1000000, .tv_nsec = 5000}, {.tv_sec = 2000000, .tv_nsec = 7000}};
  REQUIRE(futimens(30, times) == 0);
  REQUIRE(case_place(open(path, O_RDONLY), 31) && case_place(open(path, O_WRONLY | O_APPEND), 32));
  REQUIRE(unlink(path) == 0);
  /* one lay in a directory that is gone as well */
  const char *folder = case_path(dir, "folder"), *inside = case_path(dir, "folder/inside");
  REQUIRE(mkdir(folder, 0755) == 0 && case_place(open(inside, O_CREAT | O_RDWR, 0600), 34));
  REQUIRE(write(34, "inside", 6) == 6 && unlink(inside) == 0 && rmdir(folder) == 0);
  return NULL;
}

static const char *deleted_verify(const char *dir) {
  char buffer[16];
  struct stat a, b, c;
  REQUIRE(fstat(30, &a) == 0 && fstat(31, &b) == 0 && fstat(32, &c) == 0);
  REQUIRE(a.st_ino == b.st_ino && a.st_ino == c.st_ino && a.st_nlink == 0);
  REQUIRE(a.st_uid == 12 && a.st_gid == 34 && (a.st_mode & 07777) == 0604 && a.st_size == (1 << 20) + 3);
  REQUIRE(a.st_mtim.tv_sec == 2000000 && a.st_mtim.tv_nsec == 7000);
  REQUIRE(a.st_blocks * 512 < 1 << 19); /* the hole stays one */
  REQUIRE(pread(30, buffer, 7, 0) == 7 && memcmp(buffer, "deleted", 7) == 0);
  REQUIRE(pread(31, buffer, 4, 1 << 20) == 3 && memcmp(buffer, "far", 3) == 0);
  REQUIRE(lseek(30, 0, SEEK_CUR) == 2 && fcntl(32, F_GETFL) & O_APPEND);
  REQUIRE(case_link_is(30, case_path(dir, "gone (deleted)")) && access(case_path(dir, "gone"), F_OK) < 0);
  REQUIRE(access(case_path(dir, "folder"), F_OK) < 0);
  REQUIRE(pread(34, buffer, 16, 0) == 6 && memcmp(buffer, "inside", 6) == 0);
  REQUIRE(case_link_is(34, case_path(dir, "folder/inside (deleted)")));
  return NULL;
}

/* So many that threads look at them and open them; every third is a duplicate of the one before, every fifth a
 * description of its own on the same file. */
#define MANY 1600

static const char *many_setup(const char *dir) {
  struct rlimit limit = {0};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max > 2000);
  limit.rlim_cur = limit.rlim_max;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (int i = 0; i < MANY; i++) {
    char name[32];
    (void)snprintf(name, sizeof name, "%d", i % 5 == 4 ? i - 1 : i);
    int fd = i % 3 == 2 ? dup(100 + i - 1) : open(case_path(dir, name), O_CREAT | O_RDWR, 0600);
    REQUIRE(fd >= 0 && (i % 3 == 2 || lseek(fd, i % 5 == 4 ? i - 1 : i, SEEK_SET) >= 0) && case_place(fd, 100 + i));
  }
  return NULL;
}

static const char *many_verify(const char *dir) {
  for (int i = 0; i < MANY; i++) {
    int of = i % 3 == 2 ? i - 1 : i;
    int file = of % 5 == 4 ? of - 1 : of;
    char name[32];
    (void)snprintf(name, sizeof name, "%d", file);
    REQUIRE(lseek(100 + i, 0, SEEK_CUR) == file && case_link_is(100 + i, case_path(dir, name)));
    REQUIRE(i == 0 || case_same(100 + i, 100 + i - 1) == (i % 3 == 2));
  }
  return NULL;
}

/* Another file has the name now; and a file that never had one. Their names in /proc do not come back exactly. */
static const char *nameless_setup(const char *dir) {
  const char *path = case_path(dir, "gone");
  REQUIRE(case_place(open(path, O_CREAT | O_RDWR, 0600), 36) && write(36, "old", 3) == 3 && unlink(path) == 0);
  REQUIRE(case_place(open(path, O_CREAT | O_RDWR, 0644), 37) && write(37, "newer", 5) == 5);
  REQUIRE(case_place(open(dir, O_TMPFILE | O_RDWR, 0600), 38) && write(38, "nameless", 8) == 8);
  return NULL;
}

static const char *nameless_verify(const char *dir) {
  char buffer[16];
  struct stat a, b, c;
  REQUIRE(fstat(36, &a) == 0 && fstat(37, &b) == 0 && stat(case_path(dir, "gone"), &c) == 0);
  REQUIRE(a.st_nlink == 0 && b.st_ino == c.st_ino && c.st_size == 5);
  REQUIRE(pread(36, buffer, 16, 0) == 3 && memcmp(buffer, "old", 3) == 0);
  REQUIRE(pread(38, buffer, 16, 0) == 8 && memcmp(buffer, "nameless", 8) == 0 && fstat(38, &a) == 0);
  /* One that never had a name may still get one, once. */
  const char *name = case_path(dir, "named");
  REQUIRE(a.st_nlink == (access(name, F_OK) == 0 ? 1 : 0));
  REQUIRE(a.st_nlink == 1 || linkat(AT_FDCWD, "/proc/self/fd/38", AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0);
  REQUIRE(stat(name, &b) == 0 && a.st_ino == b.st_ino);
  return NULL;
}

/* --- what cannot be brought back --- */

static const char *directory_setup(const char *dir) {
  const char *path = case_path(dir, "left");
  REQUIRE(mkdir(path, 0755) == 0 && case_place(open(path, O_RDONLY), 40) && rmdir(path) == 0);
  return NULL;
}

static const char *directory_verify(const char *dir) {
  struct stat st;
  REQUIRE(fstat(40, &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0 && (st.st_mode & 0777) == 0755);
  REQUIRE(case_link_is(40, case_path(dir, "left (deleted)")) && access(case_path(dir, "left"), F_OK) < 0);
  return NULL;
}

static const char *replaced_setup(const char *dir) {
  const char *path = case_path(dir, "one"), *other = case_path(dir, "two");
  REQUIRE(case_place(open(path, O_CREAT | O_RDWR, 0600), 41) && link(path, other) == 0 && unlink(path) == 0);
  return NULL;
}

static const char *replaced_verify(const char *dir) {
  struct stat a, b;
  REQUIRE(fstat(41, &a) == 0 && stat(case_path(dir, "two"), &b) == 0 && a.st_ino == b.st_ino && a.st_nlink == 1);
  REQUIRE(case_link_is(41, case_path(dir, "one (deleted)")) && access(case_path(dir, "one"), F_OK) < 0);
  return NULL;
}

static const char *replaced_between(const char *dir) {
  REQUIRE(unlink(case_path(dir, "two")) == 0);
  return NULL;
}

static const char *type_setup(const char *dir) {
  REQUIRE(case_place(open(case_path(dir, "plain"), O_CREAT | O_RDWR, 0600), 42));
  return NULL;
}

static const char *type_between(const char *dir) {
  REQUIRE(unlink(case_path(dir, "plain")) == 0 && mkfifo(case_path(dir, "plain"), 0600) == 0);
  return NULL;
}

static const char *missing_between(const char *dir) {
  REQUIRE(unlink(case_path(dir, "plain")) == 0);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"regular", regular_setup, regular_verify},
    {"devices", devices_setup, devices_verify},
    {"many", many_setup, many_verify},
    {"deleted", deleted_setup, deleted_verify},
    {"nameless", nameless_setup, nameless_verify, .racy = true},
    {"deleted-directory", directory_setup, directory_verify},
    {"name-gone", replaced_setup, replaced_verify},
    {"names-gone", replaced_setup, .between = replaced_between, .unrestorable = "is not on the file system"},
    {"other-type", type_setup, .between = type_between, .unrestorable = "is a file of another type now"},
    {"missing", type_setup, .between = missing_between, .unrestorable = "No such file"},
    {0},
};
