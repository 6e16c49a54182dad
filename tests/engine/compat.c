/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A tree with a 32-bit program in it: refused. The program is made here, byte by byte: it calls pause(2) for ever. */

#include "subject.h"
#include <elf.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BASE 0x08048000u
/* 1: mov $29, %eax; int $0x80; jmp 1b */
static const unsigned char code[] = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};

static void make_program(const char *path) {
  struct {
    Elf32_Ehdr header;
    Elf32_Phdr ph;
    unsigned char code[sizeof code];
  } program = {.header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT}, .e_type = ET_EXEC, .e_machine = EM_386,
                   .e_version = EV_CURRENT, .e_phoff = sizeof(Elf32_Ehdr), .e_ehsize = sizeof(Elf32_Ehdr), .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1, .e_entry = BASE + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr)},
      .ph = {.p_type = PT_LOAD, .p_vaddr = BASE, .p_paddr = BASE, .p_filesz = sizeof program, .p_memsz = sizeof program,
          .p_flags = PF_R | PF_X, .p_align = 4096}};
  memcpy(program.code, code, sizeof code);
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0700);
  check_call(fd >= 0 && write(fd, &program, sizeof program) == sizeof program && close(fd) == 0);
}

int main(int argc, char **argv) {
  char path[4096];
  subject_begin(argc, argv);
  subject_path(path, sizeof path, "program");
  make_program(path);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    execl(path, path, (char *)NULL);
    _exit(errno == ENOEXEC ? 77 : 1);
  }
  for (int i = 0; i < 20; i++)
    subject_tick();
  int status = 0;
  if (waitpid(child, &status, WNOHANG) == child && WIFEXITED(status) && WEXITSTATUS(status) == 77)
    subject_skip("the kernel runs no 32-bit programs");
  check(status == 0, "the program ended with %x", status);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(waitpid(child, &status, WNOHANG) == 0, "the 32-bit program ended with %x", status);
  check_call(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  return subject_pass();
}
