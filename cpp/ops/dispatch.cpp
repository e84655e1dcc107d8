// Which kernels the processor runs.
#include "attention.h"

namespace edgekiln {

#define EDGEKILN_DECLARE(isa)                                      \
  namespace isa {                                                  \
  void attention(const AttentionCall&, const Parallel&, Scratch&); \
  }
EDGEKILN_DECLARE(portable)
#if defined(__x86_64__)
EDGEKILN_DECLARE(avx2)
EDGEKILN_DECLARE(avx512)
#endif
#undef EDGEKILN_DECLARE

const std::vector<Kernels>& kernels() {
  static const std::vector<Kernels> available = [] {
    std::vector<Kernels> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      found.push_back({avx512::attention, "avx512"});
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back({avx2::attention, "avx2"});
#endif
    found.push_back({portable::attention, "portable"});
    return found;
  }();
  return available;
}

}  // namespace edgekiln
