// The register tile of the per-token int8 GEMM with SDOT: 4 tokens times the 16 columns of a panel, in 16 accumulators
// over all of k. For NEON with FEAT_DotProd.
//
// A tile's activations are [k / 16][4 tokens][16].
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/neon/zero_registers.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kSdotTokens = 4, kSdotK = 16;

// All of it is in assembly, as in q4_tile.h: GCC 12 would copy the accumulators. v0 to v3 hold activations, v4 to v7
// weights, v16 to v31 sums [tokens][16 columns].

// A column vector times four values of k of four tokens.
#define EDGEKILN_MULTIPLY(lane, weights, s0, s1, s2, s3) \
  "sdot v" #s0 ".4s, v" #weights ".16b, v0.4b[" #lane    \
  "]\n\t"                                                \
  "sdot v" #s1 ".4s, v" #weights ".16b, v1.4b[" #lane    \
  "]\n\t"                                                \
  "sdot v" #s2 ".4s, v" #weights ".16b, v2.4b[" #lane    \
  "]\n\t"                                                \
  "sdot v" #s3 ".4s, v" #weights ".16b, v3.4b[" #lane "]\n\t"

#define EDGEKILN_MULTIPLY_4(lane)                                                                      \
  "ld1 {v4.16b-v7.16b}, [%[b]], #64\n\t" EDGEKILN_MULTIPLY(lane, 4, 16, 20, 24, 28) EDGEKILN_MULTIPLY( \
      lane, 5, 17, 21, 25, 29) EDGEKILN_MULTIPLY(lane, 6, 18, 22, 26, 30) EDGEKILN_MULTIPLY(lane, 7, 19, 23, 27, 31)

// Stores the results of a token, whose scale is `lane` of v4. Those of the columns are in v0 to v3.
#define EDGEKILN_FINISH(lane, s0, s1, s2, s3) \
  "fmul v5.4s, v0.4s, v4.s[" #lane            \
  "]\n\t"                                     \
  "fmul v6.4s, v1.4s, v4.s[" #lane            \
  "]\n\t"                                     \
  "fmul v7.4s, v2.4s, v4.s[" #lane            \
  "]\n\t"                                     \
  "scvtf v" #s0 ".4s, v" #s0                  \
  ".4s\n\t"                                   \
  "scvtf v" #s1 ".4s, v" #s1                  \
  ".4s\n\t"                                   \
  "scvtf v" #s2 ".4s, v" #s2                  \
  ".4s\n\t"                                   \
  "scvtf v" #s3 ".4s, v" #s3                  \
  ".4s\n\t"                                   \
  "fmul v" #s0 ".4s, v" #s0                   \
  ".4s, v5.4s\n\t"                            \
  "fmul v5.4s, v3.4s, v4.s[" #lane            \
  "]\n\t"                                     \
  "fmul v" #s1 ".4s, v" #s1                   \
  ".4s, v6.4s\n\t"                            \
  "fmul v" #s2 ".4s, v" #s2                   \
  ".4s, v7.4s\n\t"                            \
  "fmul v" #s3 ".4s, v" #s3                   \
  ".4s, v5.4s\n\t"                            \
  "st1 {v" #s0 ".4s-v" #s3 ".4s}, [%[out]], %[stride]\n\t"

// out [4 tokens, 16 columns], rows `stride` bytes apart = activations * weights * scales, for `steps` * 32 values of k.
// `a` and `out` become those of the next tile.
[[gnu::always_inline]] inline void sdot_tile(const std::int8_t*& a, const std::int8_t* b, std::size_t steps,
                                             const float* token_scales, const float* column_scales, float*& out,
                                             std::size_t stride) {
  asm volatile(
      EDGEKILN_ZERO(16, 17, 18, 19)
      EDGEKILN_ZERO(20, 21, 22, 23)
      EDGEKILN_ZERO(24, 25, 26, 27)
      EDGEKILN_ZERO(28, 29, 30, 31)
      "1:\n\t"
      ".rept 2\n\t"
      "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
      EDGEKILN_MULTIPLY_4(0)
      EDGEKILN_MULTIPLY_4(1)
      EDGEKILN_MULTIPLY_4(2)
      EDGEKILN_MULTIPLY_4(3)
      ".endr\n\t"
      "subs %[steps], %[steps], #1\n\t"
      "b.ne 1b\n\t"
      "ld1 {v0.4s-v3.4s}, [%[column_scales]]\n\t"
      "ld1 {v4.4s}, [%[token_scales]]\n\t"
      EDGEKILN_FINISH(0, 16, 17, 18, 19)
      EDGEKILN_FINISH(1, 20, 21, 22, 23)
      EDGEKILN_FINISH(2, 24, 25, 26, 27)
      EDGEKILN_FINISH(3, 28, 29, 30, 31)
      : [a] "+&r"(a), [b] "+&r"(b), [steps] "+&r"(steps), [out] "+&r"(out)
      : [token_scales] "r"(token_scales), [column_scales] "r"(column_scales), [stride] "r"(stride)
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
        "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

#undef EDGEKILN_MULTIPLY
#undef EDGEKILN_MULTIPLY_4
#undef EDGEKILN_FINISH

}  // namespace edgekiln::EDGEKILN_ISA
