// Which kernels the processor runs.
#include "kernels/declare_kernels.h"

#if defined(EDGEKILN_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

EDGEKILN_DECLARE(portable, nullptr, nullptr, nullptr, nullptr)
#if defined(__x86_64__)
EDGEKILN_DECLARE(avx2, nullptr, nullptr, nullptr, nullptr)
EDGEKILN_DECLARE(avx512, nullptr, nullptr, nullptr, nullptr)
EDGEKILN_DECLARE(avx512vnni, multiply_code_panels, multiply_row_quantized, multiply_shortlist, nullptr)
EDGEKILN_DECLARE(avx512bf16, multiply_code_panels, multiply_row_quantized, multiply_shortlist, rounded_attention)
#endif
#if defined(EDGEKILN_AMX)
EDGEKILN_DECLARE(amx, multiply_code_panels, multiply_row_quantized, multiply_shortlist, rounded_attention)
#endif

namespace edgekiln {

namespace {

#if defined(EDGEKILN_AMX)

// Whether the processor has tiles and the system grants them: Linux keeps them from a process until that asks, as their
// state makes its threads' larger.
bool has_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#endif

}  // namespace

const std::vector<Kernels>& kernels() {
  static const std::vector<Kernels> found = [] {
    std::vector<Kernels> found;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
#if defined(EDGEKILN_AMX)
    if (bf16 && has_tiles()) found.push_back(amx::available);
#endif
    // Intel's processors multiply bfloat16 fast in tiles only.
    if (bf16 && !__builtin_cpu_is("intel")) found.push_back(avx512bf16::available);
    if (vnni) found.push_back(avx512vnni::available);
    if (avx512) found.push_back(avx512::available);
    if (avx2) found.push_back(avx2::available);
#endif
    found.push_back(portable::available);
    return found;
  }();
  return found;
}

}  // namespace edgekiln
