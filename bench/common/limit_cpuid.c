/* Preloaded: executes cpuid for libraries in which limit_isa.py replaced the instruction by ud2, and hides features.
 *
 * LIMIT_CPUID names what is left: "portable" (SSE), "avx2", "avxvnni", "avx512vnni" or "all". Bits are those of the
 * tables of cpuid in Intel's Software Developer's Manual, volume 2A.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

/* What is left, in increasing order; the values are those of LIMIT_CPUID. */
enum { PORTABLE, AVX2, AVXVNNI, AVX512VNNI, ALL };
static const char* const kNames[] = {"portable", "avx2", "avxvnni", "avx512vnni", "all"};
static int left;

static void hide_features(uint32_t leaf, uint32_t subleaf, uint32_t* eax, uint32_t* ebx, uint32_t* ecx, uint32_t* edx) {
  if (left == ALL) return;
  if (leaf == 1 && left < AVX2) *ecx &= ~(BIT(12) | BIT(28) | BIT(29)); /* FMA, AVX, F16C */
  if (leaf == 7 && subleaf == 0) {
    if (left < AVX2) *ebx &= ~BIT(5);
    if (left < AVX512VNNI) {
      *ebx &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX512* */
      *ecx &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14)); /* AVX512*, VNNI among them */
    }
    *edx &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* AVX512* of few processors, AMX */
  }
  if (leaf == 7 && subleaf == 1) {
    if (left < AVXVNNI) *eax &= ~BIT(4);
    *eax &= ~(BIT(5) | BIT(21) | BIT(23)); /* AVX512-BF16, AMX-FP16, AVX-IFMA */
    *edx &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, -NE-CONVERT, AMX-COMPLEX, -INT16, AVX10 */
  }
  if (leaf == 13 && subleaf == 0) {
    *eax &= ~(BIT(17) | BIT(18)); /* states of AMX */
    if (left < AVX512VNNI) *eax &= ~(BIT(5) | BIT(6) | BIT(7));
  }
}

static void execute_cpuid(int signal_number, siginfo_t* info, void* context) {
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  static const uint8_t ud2[] = {0x0f, 0x0b};
  (void)info;
  if (memcmp((const void*)registers[REG_RIP], ud2, sizeof ud2) != 0) {
    signal(signal_number, SIG_DFL);
    return;
  }
  uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], eax, ebx, ecx, edx;
  __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
  hide_features(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  registers[REG_RAX] = eax;
  registers[REG_RBX] = ebx;
  registers[REG_RCX] = ecx;
  registers[REG_RDX] = edx;
  registers[REG_RIP] += sizeof ud2;
}

__attribute__((constructor)) static void install(void) {
  const char* isa = getenv("LIMIT_CPUID");
  if (!isa) return;
  while (strcmp(isa, kNames[left]) != 0) {
    if (++left > ALL) {
      fprintf(stderr, "LIMIT_CPUID must be portable, avx2, avxvnni, avx512vnni or all, got %s\n", isa);
      _Exit(2);
    }
  }
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = execute_cpuid;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, NULL);
}
