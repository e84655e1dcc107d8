// Which kernels the processor runs.
#include "kernels.h"

namespace edgekiln {

#define EDGEKILN_DECLARE(isa, ...)                                                                              \
  namespace isa {                                                                                               \
  void attention(const AttentionCall&, const Parallel&, Scratch&);                                              \
  void matmul_n_bits(const MatMulNBitsCall&, const Parallel&, Scratch&);                                        \
  void skip_norm(const SkipNormCall&, const Parallel&);                                                         \
  void packed_heads(const PackedHeadsCall&, const Parallel&);                                                   \
  void gated_silu(const GatedSiluCall&, const Parallel&);                                                       \
  void multiply_code_panels(const CodePanels&, const float*, std::size_t, float*, const Parallel&, Scratch&);   \
  void multiply_row_quantized(const Int8Panels&, const float*, std::size_t, float*, const Parallel&, Scratch&); \
  void multiply_shortlist(const Shortlist&, const float*, std::size_t, float*, const Parallel&, Scratch&);      \
  void rounded_attention(const AttentionCall&, const Parallel&, Scratch&);                                      \
  inline constexpr Kernels available{                                                                           \
      #isa, attention, matmul_n_bits, skip_norm, gated_silu, packed_heads, __VA_ARGS__};                        \
  }
EDGEKILN_DECLARE(portable, nullptr, nullptr, nullptr, nullptr)
#if defined(__x86_64__)
EDGEKILN_DECLARE(avx2, nullptr, nullptr, nullptr, nullptr)
EDGEKILN_DECLARE(avx512, nullptr, nullptr, nullptr, nullptr)
EDGEKILN_DECLARE(avx512vnni, multiply_code_panels, multiply_row_quantized, multiply_shortlist, nullptr)
EDGEKILN_DECLARE(avx512bf16, multiply_code_panels, multiply_row_quantized, multiply_shortlist, rounded_attention)
#endif
#undef EDGEKILN_DECLARE

const std::vector<Kernels>& kernels() {
  static const std::vector<Kernels> found = [] {
    std::vector<Kernels> found;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (vnni && __builtin_cpu_supports("avx512bf16")) found.push_back(avx512bf16::available);
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
