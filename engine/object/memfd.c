/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* memfd_create(2) and shared anonymous memory: both are files of the kernel's own tmpfs. Shared anonymous memory has no
 * descriptor, only mappings, and the name "/dev/zero"; it comes through collector_add_path(). The content is written by
 * the memory stage (collector_shmems()) and read back at the first open of the inode. */

#include "internal.h"
#include "memfd.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#define MFD_NOEXEC_SEAL_ 0x0008U
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define MFD_HUGE_SHIFT_ 26 /* MFD_HUGE_SHIFT, MAP_HUGE_SHIFT */
#define DELETED " (deleted)"
#define ANON_NAME "/dev/zero"
#define ANON_HUGE_NAME "/anon_hugepage"
#define DEFAULT_MODE 0777

/* --- collect --- */

static bool memfd_claims(const FileProbe *probe) {
  if (probe->link[0] != '/' || !S_ISREG(probe->st.st_mode))
    return false;
  if (probe->st.st_dev == kernel_devs()->shmem)
    return true;
  return probe->st.st_nlink == 0 &&
         (g_str_has_prefix(probe->link, "/memfd:") || g_str_has_prefix(probe->link, "/anon_hugepage"));
}

/* Whether a memfd has, behind more slashes or none, the name that stands for anonymous memory in the images; those get one
 * slash more there. */
static bool is_confusing(const char *name) {
  while (g_str_has_prefix(name, "//"))
    name++;
  return strcmp(name, ANON_NAME) == 0 || strcmp(name, ANON_HUGE_NAME) == 0;
}

/* The name as memfd_create() got it; NULL for files of the kernel that are neither. */
static char *memfd_name(const FileProbe *probe) {
  const char *name = probe->link;
  if (g_str_has_prefix(name, "/memfd:"))
    name += strlen("/memfd:");
  else if (strcmp(name, ANON_NAME DELETED) != 0 && strcmp(name, ANON_HUGE_NAME DELETED) != 0)
    return NULL;
  size_t length = strlen(name);
  if (g_str_has_suffix(name, DELETED))
    length -= strlen(DELETED);
  g_autofree char *plain = g_strndup(name, length);
  bool escaped = name != probe->link && is_confusing(plain);
  return escaped ? g_strconcat("/", plain, NULL) : g_steal_pointer(&plain);
}

static bool is_huge(const FileProbe *probe) {
  struct statfs fs;
  return probe->st.st_dev != kernel_devs()->shmem && fstatfs(probe->local, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
}

static gpointer inodes_new(void) {
  return g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
}

static int read_seals(const FileProbe *probe) {
  int seals = fcntl(probe->local, F_GET_SEALS);
  if (seals >= 0)
    return seals;
  FdPath path = fd_path(probe->local); /* an O_PATH descriptor */
  _cleanup_fd_ int fd = open(path.text, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
}

/* The inode_id of the images; writes the record of the inode at the first call. 0 with error. */
static guint32 memfd_inode(Collector *c, const FileProbe *probe, const char *name, GError **error) {
  static const char key;
  GHashTable *inodes = collector_state(c, &key, inodes_new, (GDestroyNotify)g_hash_table_unref);
  guint64 ino = probe->st.st_ino;
  guint32 id = GPOINTER_TO_UINT(g_hash_table_lookup(inodes, &ino));
  if (id)
    return id;
  int seals = read_seals(probe);
  if (seals < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the seals of %s", probe->link);
    return 0;
  }
  MemfdInodeEntry *inode = MESSAGE_NEW(MemfdInodeEntry, memfd_inode_entry__init);
  id = g_hash_table_size(inodes) + 1;
  inode->name = g_strdup(name);
  inode->uid = probe->st.st_uid;
  inode->gid = probe->st.st_gid;
  inode->size = (guint64)probe->st.st_size;
  inode->shmid =
      (guint32)(inode->size ? collector_shmem_of(c, probe->st.st_dev, probe->st.st_ino, inode->size, probe->local)
                            : collector_new_shmid(c)); /* nothing to write */
  inode->seals = (guint32)seals;
  inode->inode_id = id;
  if (is_huge(probe)) { /* as memfd_create(2) and mmap(2) take it; st_blksize is the page size there */
    inode->has_hugetlb_flag = true;
    inode->hugetlb_flag = MFD_HUGETLB | (guint32)__builtin_ctzl((unsigned long)probe->st.st_blksize) << MFD_HUGE_SHIFT_;
  }
  inode->has_mode = (probe->st.st_mode & 07777) != DEFAULT_MODE;
  inode->mode = probe->st.st_mode & 07777;
  checkpoint_add_record(collector_checkpoint(c), RECORD_MEMFD, &inode->base, NULL);
  g_hash_table_insert(inodes, g_memdup2(&ino, sizeof ino), GUINT_TO_POINTER(id));
  return id;
}

static bool block_special(Collector *c, const FileProbe *probe) {
  collector_block(c, probe, probe->link, "memory of a driver is outside the process", "close and unmap it");
  return true;
}

static bool memfd_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *name = memfd_name(probe);
  if (!name || (probe->st.st_dev != kernel_devs()->shmem && !is_huge(probe)))
    return block_special(c, probe);
  guint32 inode_id = memfd_inode(c, probe, name, error);
  if (!inode_id)
    return false;
  entry->memfd = MESSAGE_NEW(MemfdFileEntry, memfd_file_entry__init);
  entry->memfd->id = entry->id;
  entry->memfd->flags = (guint32)probe->flags;
  entry->memfd->pos = probe->fd < 0 ? 0 : (guint64)probe->pos;
  entry->memfd->fown = collector_fown(probe);
  entry->memfd->inode_id = inode_id;
  return true;
}

/* --- restore --- */

static const MemfdInodeEntry *find_inode(Restorer *r, guint32 inode_id) {
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_MEMFD];
  for (guint i = 0; i < records->len; i++) {
    const MemfdInodeEntry *inode = (const MemfdInodeEntry *)((Record *)records->pdata[i])->message;
    if (inode->inode_id == inode_id)
      return inode;
  }
  return NULL;
}

/* Shared anonymous memory as the application made it, by its name in /proc/PID/maps; -1 where map_files cannot be
 * opened. */
static int make_anonymous(guint64 size, guint32 huge) {
  if (!size || size & 4095)
    return -1;
  int flags = MAP_SHARED | MAP_ANONYMOUS | (huge ? MAP_HUGETLB | (int)(huge & (0x3fu << MFD_HUGE_SHIFT_)) : 0);
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (at == MAP_FAILED)
    return -1;
  char path[96];
  (void)snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + size);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  (void)munmap(at, size);
  return fd;
}

static int make_memfd(const MemfdInodeEntry *inode, GError **error) {
  unsigned int flags = MFD_CLOEXEC | (inode->seals == F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING) | inode->hugetlb_flag;
  bool no_code = inode->seals & F_SEAL_EXEC && inode->has_mode && !(inode->mode & 0111);
  const char *name = inode->name[0] == '/' && inode->name[1] == '/' && is_confusing(inode->name) ? inode->name + 1 : inode->name;
  int fd = memfd_create(name, flags | (no_code ? MFD_NOEXEC_SEAL_ : MFD_EXEC));
  if (fd < 0 && errno == EINVAL) /* before 6.3 */
    fd = memfd_create(name, flags);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make the memfd %s%s", inode->name,
        errno == EACCES       ? " (it may hold code, which sysctl vm.memfd_noexec forbids)"
        : inode->hugetlb_flag ? " (in huge pages: are there enough in /proc/sys/vm/nr_hugepages?)"
                              : "");
  return fd;
}

/* Whether some task still has to map the inode for writing. */
static bool is_mapped_writable(Restorer *r, guint32 inode_id) {
  const Checkpoint *checkpoint = restorer_checkpoint(r);
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const MmEntry *mm = ((const Task *)checkpoint->tasks->pdata[t])->mm;
    for (size_t i = 0; mm && i < mm->n_vmas; i++) {
      const VmaEntry *v = mm->vmas[i];
      const FileEntry *file = v->status & VMA_FILE_SHARED ? checkpoint_find_file(checkpoint, (guint32)v->shmid) : NULL;
      if (file && file->memfd && file->memfd->inode_id == inode_id)
        return true;
    }
  }
  return false;
}

static bool memfd_fill(Restorer *r, const MemfdInodeEntry *inode, int fd, GError **error) {
  if (ftruncate(fd, (off_t)inode->size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno,
        "Cannot set the size of the memfd %s to %" G_GUINT64_FORMAT, inode->name, inode->size);
  if (!restorer_fill_shmem(r, inode->shmid, fd, error))
    return false;
  mode_t mode = inode->has_mode ? inode->mode & 07777 : DEFAULT_MODE;
  if (fchown(fd, inode->uid, inode->gid) < 0 || fchmod(fd, mode) < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set owner and mode of the memfd %s", inode->name);
  /* Mappings that were writable before this seal still have to be made: restorer_finish() adds it. */
  unsigned int seals = inode->seals;
  if (seals & F_SEAL_FUTURE_WRITE && is_mapped_writable(r, (guint32)inode->inode_id))
    seals &= ~(unsigned int)(F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
  if (seals && inode->seals != F_SEAL_SEAL && fcntl(fd, F_ADD_SEALS, seals) < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot seal the memfd %s with 0x%x", inode->name, seals);
  return true;
}

static bool is_program(Restorer *r, guint32 inode_id) {
  const Checkpoint *checkpoint = restorer_checkpoint(r);
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const MmEntry *mm = ((const Task *)checkpoint->tasks->pdata[t])->mm;
    const FileEntry *file = mm ? checkpoint_find_file(checkpoint, mm->exe_file_id) : NULL;
    if (file && file->memfd && file->memfd->inode_id == inode_id)
      return true;
  }
  return false;
}

/* What somebody runs (fexecve(3)) nobody may have open for writing: prctl(PR_SET_MM) says ETXTBSY. */
static int memfd_read_only(int fd, GError **error) {
  FdPath path = fd_path(fd);
  int again = open(path.text, O_RDONLY | O_CLOEXEC);
  if (again < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a memfd again");
  return again;
}

/* The inode itself, read-write but for programs, borrowed. */
static int memfd_of_inode(Restorer *r, guint32 inode_id, GError **error) {
  int known = restorer_shared_get(r, FD_TYPES__MEMFD, inode_id);
  if (known >= 0)
    return known;
  const MemfdInodeEntry *inode = find_inode(r, inode_id);
  const guint32 huge_bits = MFD_HUGETLB | 0x3fu << MFD_HUGE_SHIFT_;
  if (!inode || (inode->hugetlb_flag & ~huge_bits) || inode->size > G_MAXINT64) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "memfd.img has no valid inode %u", inode_id);
    return -1;
  }
  bool anonymous = strcmp(inode->name, inode->hugetlb_flag ? ANON_HUGE_NAME : ANON_NAME) == 0;
  _cleanup_fd_ int fd = anonymous ? make_anonymous(inode->size, inode->hugetlb_flag) : -1;
  if (fd < 0)
    fd = make_memfd(inode, error);
  if (fd < 0 || !memfd_fill(r, inode, fd, error))
    return -1;
  int kept = is_program(r, inode_id) ? memfd_read_only(fd, error) : fd_take(&fd);
  if (kept < 0)
    return -1;
  restorer_shared_put(r, FD_TYPES__MEMFD, inode_id, kept);
  return kept;
}

/* As large as the mapping that reaches farthest. */
static guint64 anon_shared_size(Restorer *r, guint64 shmid) {
  const Checkpoint *checkpoint = restorer_checkpoint(r);
  guint64 size = 0;
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const MmEntry *mm = ((const Task *)checkpoint->tasks->pdata[t])->mm;
    for (size_t i = 0; mm && i < mm->n_vmas; i++) {
      const VmaEntry *v = mm->vmas[i];
      if ((v->status & VMA_ANON_SHARED) && !(v->status & VMA_AREA_SYSVIPC) && v->shmid == shmid)
        size = MAX(size, v->pgoff + (v->end - v->start));
    }
  }
  return size;
}

int restorer_anon_shared(Restorer *r, guint64 shmid, GError **error) {
  int known = restorer_shared_get(r, FD_TYPES__UND, shmid);
  if (known >= 0)
    return known;
  _cleanup_fd_ int fd = make_anonymous(anon_shared_size(r, shmid), 0);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make shared memory %" G_GUINT64_FORMAT, shmid);
    return -1;
  }
  if (!restorer_fill_shmem(r, shmid, fd, error))
    return -1;
  int kept = fd_take(&fd);
  restorer_shared_put(r, FD_TYPES__UND, shmid, kept);
  return kept;
}

static int memfd_open(Restorer *r, const FileEntry *entry, GError **error) {
  const MemfdFileEntry *memfd = entry->memfd;
  if (!memfd) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no memfd_file_entry");
    return -1;
  }
  int inode = memfd_of_inode(r, memfd->inode_id, error);
  if (inode < 0)
    return -1;
  FdPath path = fd_path(inode);
  int access = (int)memfd->flags & (O_ACCMODE | O_PATH);
  _cleanup_fd_ int fd = open(path.text, access | O_CLOEXEC);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a memfd again");
    return -1;
  }
  if (access & O_PATH)
    return fd_take(&fd);
  if (!restorer_set_flags(fd, memfd->flags, error))
    return -1;
  if (memfd->pos && lseek(fd, (off_t)memfd->pos, SEEK_SET) < 0) {
    engine_fail_errno(
        error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "Cannot set the position %" G_GUINT64_FORMAT, memfd->pos);
    return -1;
  }
  return fd_take(&fd);
}

bool memfd_finish(Restorer *r, GError **error) {
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_MEMFD];
  for (guint i = 0; i < records->len; i++) {
    const MemfdInodeEntry *inode = (const MemfdInodeEntry *)((Record *)records->pdata[i])->message;
    int fd = restorer_shared_get(r, FD_TYPES__MEMFD, inode->inode_id);
    if (fd < 0 || !(inode->seals & F_SEAL_FUTURE_WRITE) || fcntl(fd, F_GET_SEALS) == (int)inode->seals)
      continue;
    if (fcntl(fd, F_ADD_SEALS, inode->seals) < 0)
      return engine_fail_errno(
          error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot seal the memfd %s with 0x%x", inode->name, inode->seals);
  }
  return true;
}

static const FownEntry *memfd_fown(const FileEntry *entry) {
  return entry->memfd ? entry->memfd->fown : NULL;
}

const ObjectOps memfd_ops = {
    .name = "memfd",
    .type = FD_TYPES__MEMFD,
    .claims = memfd_claims,
    .collect = memfd_collect,
    .open = memfd_open,
    .fown = memfd_fown,
};
