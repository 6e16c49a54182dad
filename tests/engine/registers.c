/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads that spin with known values in every register: general ones, x87, SSE, AVX, AVX-512 with its masks, AMX
 * tiles, and the control words. Each loop ends only when a flag in memory is set; then everything is stored and
 * compared. argv[2] picks one kind. What the CPU lacks is skipped. */

#include "subject.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

static volatile int ending;
static volatile int spinning;

typedef struct Kind {
  const char *name;
  bool (*available)(void);
  void (*run)(int seed);
} Kind;

static uint8_t pattern(int seed, int reg, int byte) {
  return (uint8_t)(seed * 31 + reg * 7 + byte * 13 + 5);
}

static void fill(uint8_t *block, int seed, int n_registers, int size) {
  for (int r = 0; r < n_registers; r++)
    for (int b = 0; b < size; b++)
      block[r * size + b] = pattern(seed, r, b);
}

static void compare(const char *what, const uint8_t *in, const uint8_t *out, int n_registers, int size) {
  for (int r = 0; r < n_registers; r++)
    check(!memcmp(in + r * size, out + r * size, (size_t)size), "%s%d has changed", what, r);
}

#define SPIN "1: pause\n\tcmpl $0, (%[flag])\n\tje 1b\n\t"

static bool always(void) {
  return true;
}

#ifdef __i386__
enum { N_GENERAL = 7, WORD = 4, N_VECTORS = 8, N_ZMM = 8 };
/* (in, out, flag): eax, ebx … ebp, esi, edi from in, until *flag; then all of them to out, and the flags register. */
void spin_general(const void *in, void *out, volatile int *flag);
__asm__(".pushsection .text\n\t.type spin_general, @function\nspin_general:\n\t"
        "push %ebp\n\t push %ebx\n\t push %esi\n\t push %edi\n\t"
        "mov 20(%esp), %eax\n\t mov 28(%esp), %ebx\n\t push %ebx\n\t" /* the flag: (%esp) */
        "mov 4(%eax), %ebx\n\t mov 8(%eax), %ecx\n\t mov 12(%eax), %edx\n\t mov 16(%eax), %esi\n\t"
        "mov 20(%eax), %edi\n\t mov 24(%eax), %ebp\n\t mov (%eax), %eax\n\t std\n"
        "1:\tpause\n\t push %eax\n\t mov 4(%esp), %eax\n\t cmpl $0, (%eax)\n\t pop %eax\n\t je 1b\n\t"
        "pushf\n\t cld\n\t push %eax\n\t mov 36(%esp), %eax\n\t" /* out */
        "mov %ebx, 4(%eax)\n\t mov %ecx, 8(%eax)\n\t mov %edx, 12(%eax)\n\t mov %esi, 16(%eax)\n\t"
        "mov %edi, 20(%eax)\n\t mov %ebp, 24(%eax)\n\t pop %ecx\n\t mov %ecx, (%eax)\n\t pop %ecx\n\t mov %ecx, 28(%eax)\n\t"
        "pop %ecx\n\t pop %edi\n\t pop %esi\n\t pop %ebx\n\t pop %ebp\n\t ret\n\t"
        ".size spin_general, .-spin_general\n\t.popsection\n");
#else
enum { N_GENERAL = 13, WORD = 8, N_VECTORS = 16, N_ZMM = 32 };
/* (in, out, flag): rax, rbx … r13 from in, until *flag; then all of them to out, and the flags register. */
void spin_general(const void *in, void *out, volatile int *flag);
__asm__(".pushsection .text\n\t.type spin_general, @function\nspin_general:\n\t"
        "push %rbp\n\t push %rbx\n\t push %r12\n\t push %r13\n\t push %r14\n\t push %r15\n\t push %rsi\n\t"
        "mov %rdi, %r14\n\t mov %rdx, %r15\n\t"
        "mov (%r14), %rax\n\t mov 8(%r14), %rbx\n\t mov 16(%r14), %rcx\n\t mov 24(%r14), %rdx\n\t"
        "mov 32(%r14), %rsi\n\t mov 40(%r14), %rdi\n\t mov 48(%r14), %rbp\n\t mov 56(%r14), %r8\n\t"
        "mov 64(%r14), %r9\n\t mov 72(%r14), %r10\n\t mov 80(%r14), %r11\n\t mov 88(%r14), %r12\n\t"
        "mov 96(%r14), %r13\n\t std\n"
        "1:\tpause\n\t cmpl $0, (%r15)\n\t je 1b\n\t"
        "pushf\n\t cld\n\t mov 8(%rsp), %r14\n\t"
        "mov %rax, (%r14)\n\t mov %rbx, 8(%r14)\n\t mov %rcx, 16(%r14)\n\t mov %rdx, 24(%r14)\n\t"
        "mov %rsi, 32(%r14)\n\t mov %rdi, 40(%r14)\n\t mov %rbp, 48(%r14)\n\t mov %r8, 56(%r14)\n\t"
        "mov %r9, 64(%r14)\n\t mov %r10, 72(%r14)\n\t mov %r11, 80(%r14)\n\t mov %r12, 88(%r14)\n\t"
        "mov %r13, 96(%r14)\n\t pop %rax\n\t mov %rax, 104(%r14)\n\t"
        "pop %rsi\n\t pop %r15\n\t pop %r14\n\t pop %r13\n\t pop %r12\n\t pop %rbx\n\t pop %rbp\n\t ret\n\t"
        ".size spin_general, .-spin_general\n\t.popsection\n");

#endif

static void run_general(int seed) {
  unsigned long in[N_GENERAL + 1], out[N_GENERAL + 1];
  fill((uint8_t *)in, seed, N_GENERAL, WORD);
  spinning++;
  spin_general(in, out, &ending);
  compare("general register ", (uint8_t *)in, (uint8_t *)out, N_GENERAL, WORD);
  check(out[N_GENERAL] & 0x400, "the direction flag is gone: %lx", out[N_GENERAL]);
}

/* Eight long doubles, an odd control word and MXCSR. */
static void run_x87(int seed) {
  struct {
    long double value;
  } __attribute__((aligned(16))) in[8], out[8];
  uint16_t control = 0x067f, control_out = 0, restored = 0x037f;
  uint32_t mxcsr = 0x7f80, mxcsr_out = 0, mxcsr_restored = 0x1f80;
  for (int i = 0; i < 8; i++)
    in[i].value = (long double)(seed + 1) / (long double)(i + 3);
  spinning++;
  __asm__ volatile("fninit\n\t fldcw %[control]\n\t ldmxcsr %[mxcsr]\n\t"
                   "fldt (%[in])\n\t fldt 16(%[in])\n\t fldt 32(%[in])\n\t fldt 48(%[in])\n\t"
                   "fldt 64(%[in])\n\t fldt 80(%[in])\n\t fldt 96(%[in])\n\t fldt 112(%[in])\n\t" SPIN
                   "fnstcw %[control_out]\n\t stmxcsr %[mxcsr_out]\n\t"
                   "fstpt 112(%[out])\n\t fstpt 96(%[out])\n\t fstpt 80(%[out])\n\t fstpt 64(%[out])\n\t"
                   "fstpt 48(%[out])\n\t fstpt 32(%[out])\n\t fstpt 16(%[out])\n\t fstpt (%[out])\n\t"
                   "fldcw %[restored]\n\t ldmxcsr %[mxcsr_restored]\n\t"
                   : [control_out] "=m"(control_out), [mxcsr_out] "=m"(mxcsr_out)
                   : [in] "r"(in), [out] "r"(out), [flag] "r"(&ending), [control] "m"(control), [mxcsr] "m"(mxcsr),
                   [restored] "m"(restored), [mxcsr_restored] "m"(mxcsr_restored)
                   : "memory", "cc");
  check(control == control_out, "the x87 control word is %x", control_out);
  check(mxcsr == mxcsr_out, "MXCSR is %x", mxcsr_out);
  for (int i = 0; i < 8; i++)
    check(!memcmp(&in[i], &out[i], 10), "x87 register %d has changed", i);
}

#ifdef __i386__
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH_UPPER(X)
#else
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_UPPER(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#endif

#define SSE_LOAD(n) "movdqu " #n "*16(%[in]), %%xmm" #n "\n\t"
#define SSE_STORE(n) "movdqu %%xmm" #n ", " #n "*16(%[out])\n\t"
#define CLOBBERED(n) , "xmm" #n

static void run_sse(int seed) {
  uint8_t in[N_VECTORS * 16], out[N_VECTORS * 16];
  fill(in, seed, N_VECTORS, 16);
  spinning++;
  __asm__ volatile(EACH(SSE_LOAD) SPIN EACH(SSE_STORE)
                   :
                   : [in] "r"(in), [out] "r"(out), [flag] "r"(&ending)
                   : "memory", "cc" EACH(CLOBBERED));
  compare("xmm", in, out, N_VECTORS, 16);
}

static bool has_avx(void) {
  return __builtin_cpu_supports("avx");
}

#define AVX_LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n\t"
#define AVX_STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n\t"

static void run_avx(int seed) {
  uint8_t in[N_VECTORS * 32], out[N_VECTORS * 32];
  fill(in, seed, N_VECTORS, 32);
  spinning++;
  __asm__ volatile(EACH(AVX_LOAD) SPIN EACH(AVX_STORE) "vzeroupper\n\t"
                   :
                   : [in] "r"(in), [out] "r"(out), [flag] "r"(&ending)
                   : "memory", "cc" EACH(CLOBBERED));
  compare("ymm", in, out, N_VECTORS, 32);
}

static bool has_avx512(void) {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512f");
}

#define ZMM_LOAD(n) "vmovdqu64 " #n "*64(%[in]), %%zmm" #n "\n\t"
#define ZMM_STORE(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[out])\n\t"
#define MASK_LOAD(n) "kmovq " #n "*8(%[masks]), %%k" #n "\n\t"
#define MASK_STORE(n) "kmovq %%k" #n ", " #n "*8(%[masks_out])\n\t"
#define EACH_MASK(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

__attribute__((target("avx512f,avx512bw"))) static void run_avx512(int seed) {
  uint8_t in[N_ZMM * 64], out[N_ZMM * 64], masks[64], masks_out[64];
  fill(in, seed, N_ZMM, 64);
  fill(masks, seed + 1, 8, 8);
  spinning++;
  __asm__ volatile(EACH(ZMM_LOAD) EACH_UPPER(ZMM_LOAD) EACH_MASK(MASK_LOAD) SPIN EACH(ZMM_STORE)
                       EACH_UPPER(ZMM_STORE) EACH_MASK(MASK_STORE) "vzeroupper\n\t"
                   :
                   : [in] "r"(in), [out] "r"(out), [masks] "r"(masks), [masks_out] "r"(masks_out), [flag] "r"(&ending)
                   : "memory", "cc" EACH(CLOBBERED) EACH_UPPER(CLOBBERED), "k1", "k2", "k3", "k4", "k5", "k6", "k7");
  compare("zmm", in, out, N_ZMM, 64);
  compare("k", masks, masks_out, 8, 8);
}

#ifndef __i386__
static bool has_amx(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1U << 24))
    return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18L) == 0;
}

/* All but two, which stay empty, one of them without a configuration. */
#define EACH_TILE(X) X(0) X(1) X(2) X(3) X(5) X(7)
enum { EMPTY_TILE = 4, NO_TILE = 6 };
#define TILE_LOAD(n) "tileloadd " #n "*1024(%[in], %[stride]), %%tmm" #n "\n\t"
/* The displacement of tile n is n KiB: one tile has 16 rows of 64 bytes. */
#define TILE_STORE(n) "tilestored %%tmm" #n ", " #n "*1024(%[out], %[stride])\n\t"

static void run_amx(int seed) {
  static __thread uint8_t in[8 * 1024], out[8 * 1024], empty[1024];
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
  } config = {.palette = 1}, config_out = {0};
  for (int i = 0; i < 8; i++) { /* each of another shape, the first as large as can be */
    config.columns[i] = i == NO_TILE ? 0 : (uint16_t)(64 - 8 * i);
    config.rows[i] = i == NO_TILE ? 0 : (uint8_t)(16 - i);
  }
  fill(in, seed, 8, 1024);
  memset(empty, 0xff, sizeof empty);
  spinning++;
  __asm__ volatile("ldtilecfg %[config]\n\t" EACH_TILE(TILE_LOAD)
                       SPIN EACH_TILE(TILE_STORE) "tilestored %%tmm4, (%[empty], %[stride])\n\t"
                   "sttilecfg %[config_out]\n\t tilerelease\n\t"
                   : [config_out] "=m"(config_out)
                   : [in] "r"(in), [out] "r"(out), [empty] "r"(empty), [stride] "r"(64L), [flag] "r"(&ending), [config] "m"(config)
                   : "memory", "cc");
  check(!memcmp(&config, &config_out, sizeof config), "the configuration of the tiles has changed");
  for (int i = 0; i < 8; i++)
    for (int row = 0; row < config.rows[i]; row++) {
      size_t at = (size_t)(i * 1024 + row * 64);
      static const uint8_t zeroes[64];
      bool same = i == EMPTY_TILE ? !memcmp(empty + row * 64, zeroes, config.columns[i]) : !memcmp(in + at, out + at, config.columns[i]);
      check(same, "tile %d has changed in row %d", i, row);
    }
}
#endif

static const Kind kinds[] = {{"general", always, run_general}, {"x87", always, run_x87}, {"sse", always, run_sse},
    {"avx", has_avx, run_avx}, {"avx512", has_avx512, run_avx512},
#ifndef __i386__
    {"amx", has_amx, run_amx}
#endif
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void *spin(void *data) {
  const Kind *kind = data;
  kind->run((int)(kind - kinds) + 1);
  return data;
}

int main(int argc, char **argv) {
  pthread_t threads[N_KINDS];
  int started = 0;
  subject_begin(argc, argv);
  const char *only = argc > 2 ? argv[2] : NULL;
  for (int i = 0; i < N_KINDS; i++) {
    if ((only && strcmp(kinds[i].name, only) != 0) || !kinds[i].available())
      continue;
    check_call(pthread_create(&threads[started++], NULL, spin, (void *)&kinds[i]) == 0);
  }
  if (!started)
    subject_skip("this CPU has no such registers");
  while (spinning < started)
    subject_tick();
  (void)usleep(50000);
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  ending = 1;
  for (int i = 0; i < started; i++)
    check_call(pthread_join(threads[i], NULL) == 0);
  return subject_pass();
}
