// The register tile of the per-token int8 GEMM with SMMLA: up to 12 tokens times 8 columns, in 24 accumulators over all
// of k. For NEON with FEAT_I8MM.
//
// SMMLA multiplies two tokens with two columns, 8 values of k each. Of such pairs of rows
//   a tile's activations are   [k / 8][pairs of tokens][2][8]
//   a panel's weights are      [k / 8][8 pairs of columns][2][8], of which a tile reads 4 pairs.
// Six pairs of tokens and four of columns need 20 registers for 16 values of k, five loads for 48 SMMLA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/neon/zero_registers.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kSmmlaTokens = 12, kSmmlaColumns = 8;

// All of it is in assembly, as in q4_tile.h: GCC 12 would copy the accumulators. v0 to v3 hold activations, v4 to v7
// weights, v8 to v31 sums [pairs of tokens][pairs of columns][2][2].

#define EDGEKILN_LOAD_TOKENS "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
#define EDGEKILN_LOAD_COLUMNS "ld1 {v4.16b-v7.16b}, [%[b]], %[row]\n\t"

// A pair of tokens times four pairs of columns.
#define EDGEKILN_MULTIPLY(tokens, s0, s1, s2, s3) \
  "smmla v" #s0 ".4s, v" #tokens                  \
  ".16b, v4.16b\n\t"                              \
  "smmla v" #s1 ".4s, v" #tokens                  \
  ".16b, v5.16b\n\t"                              \
  "smmla v" #s2 ".4s, v" #tokens                  \
  ".16b, v6.16b\n\t"                              \
  "smmla v" #s3 ".4s, v" #tokens ".16b, v7.16b\n\t"
#define EDGEKILN_PAIR_0(tokens) EDGEKILN_MULTIPLY(tokens, 8, 9, 10, 11)
#define EDGEKILN_PAIR_1(tokens) EDGEKILN_MULTIPLY(tokens, 12, 13, 14, 15)
#define EDGEKILN_PAIR_2(tokens) EDGEKILN_MULTIPLY(tokens, 16, 17, 18, 19)
#define EDGEKILN_PAIR_3(tokens) EDGEKILN_MULTIPLY(tokens, 20, 21, 22, 23)
#define EDGEKILN_PAIR_4(tokens) EDGEKILN_MULTIPLY(tokens, 24, 25, 26, 27)
#define EDGEKILN_PAIR_5(tokens) EDGEKILN_MULTIPLY(tokens, 28, 29, 30, 31)

// 16 values of k.
#define EDGEKILN_MULTIPLY_16 \
  ".if %c[pairs] == 6\n\t"                                                             \
  EDGEKILN_LOAD_COLUMNS                                                                \
  EDGEKILN_LOAD_TOKENS                                                                 \
  EDGEKILN_PAIR_0(0) EDGEKILN_PAIR_1(1) EDGEKILN_PAIR_2(2) EDGEKILN_PAIR_3(3)          \
  EDGEKILN_LOAD_TOKENS                                                                 \
  EDGEKILN_PAIR_4(0) EDGEKILN_PAIR_5(1)                                                \
  EDGEKILN_LOAD_COLUMNS                                                                \
  EDGEKILN_PAIR_0(2) EDGEKILN_PAIR_1(3)                                                \
  EDGEKILN_LOAD_TOKENS                                                                 \
  EDGEKILN_PAIR_2(0) EDGEKILN_PAIR_3(1) EDGEKILN_PAIR_4(2) EDGEKILN_PAIR_5(3)          \
  ".endif\n\t"                                                                         \
  ".if %c[pairs] == 4\n\t"                                                             \
  ".rept 2\n\t"                                                                        \
  EDGEKILN_LOAD_COLUMNS                                                                \
  EDGEKILN_LOAD_TOKENS                                                                 \
  EDGEKILN_PAIR_0(0) EDGEKILN_PAIR_1(1) EDGEKILN_PAIR_2(2) EDGEKILN_PAIR_3(3)          \
  ".endr\n\t"                                                                          \
  ".endif\n\t"                                                                         \
  ".if %c[pairs] == 2\n\t"                                                             \
  EDGEKILN_LOAD_TOKENS                                                                 \
  EDGEKILN_LOAD_COLUMNS                                                                \
  EDGEKILN_PAIR_0(0) EDGEKILN_PAIR_1(1)                                                \
  EDGEKILN_LOAD_COLUMNS                                                                \
  EDGEKILN_PAIR_0(2) EDGEKILN_PAIR_1(3)                                                \
  ".endif\n\t"

// Stores the two rows of 8 results of a pair of tokens, whose scales are `lane0` and `lane1` of v`scales`. Those of the
// columns are in v3 and v4.
#define EDGEKILN_FINISH(scales, lane0, lane1, s0, s1, s2, s3) \
  "zip1 v6.2d, v" #s0 ".2d, v" #s1                            \
  ".2d\n\t"                                                   \
  "zip1 v7.2d, v" #s2 ".2d, v" #s3                            \
  ".2d\n\t"                                                   \
  "zip2 v" #s0 ".2d, v" #s0 ".2d, v" #s1                      \
  ".2d\n\t"                                                   \
  "zip2 v" #s1 ".2d, v" #s2 ".2d, v" #s3                      \
  ".2d\n\t"                                                   \
  "fmul v5.4s, v3.4s, v" #scales ".s[" #lane0                 \
  "]\n\t"                                                     \
  "fmul v" #s2 ".4s, v4.4s, v" #scales ".s[" #lane0           \
  "]\n\t"                                                     \
  "scvtf v6.4s, v6.4s\n\t"                                    \
  "scvtf v7.4s, v7.4s\n\t"                                    \
  "fmul v6.4s, v6.4s, v5.4s\n\t"                              \
  "fmul v7.4s, v7.4s, v" #s2                                  \
  ".4s\n\t"                                                   \
  "fmul v5.4s, v3.4s, v" #scales ".s[" #lane1                 \
  "]\n\t"                                                     \
  "fmul v" #s2 ".4s, v4.4s, v" #scales ".s[" #lane1           \
  "]\n\t"                                                     \
  "scvtf v" #s0 ".4s, v" #s0                                  \
  ".4s\n\t"                                                   \
  "scvtf v" #s1 ".4s, v" #s1                                  \
  ".4s\n\t"                                                   \
  "fmul v" #s0 ".4s, v" #s0                                   \
  ".4s, v5.4s\n\t"                                            \
  "fmul v" #s1 ".4s, v" #s1 ".4s, v" #s2                      \
  ".4s\n\t"                                                   \
  "st1 {v6.4s-v7.4s}, [%[out]], %[stride]\n\t"                \
  "st1 {v" #s0 ".4s-v" #s1 ".4s}, [%[out]], %[stride]\n\t"

// out [2 * Pairs tokens, 8 columns], rows `stride` bytes apart = activations * weights * scales, for `steps` * 32
// values of k. Rows of weights, of 8 values of k, are `row` bytes apart. `a` and `out` become those of the next tile.
template <int Pairs>
[[gnu::always_inline]] inline void smmla_tile(const std::int8_t*& a, const std::int8_t* b, std::size_t row,
                                              std::size_t steps, const float* token_scales, const float* column_scales,
                                              float*& out, std::size_t stride) {
  static_assert(Pairs == 2 || Pairs == 4 || Pairs == 6);
  std::size_t twice = (steps + 1) / 2;
  // With an odd number of steps, the loop of two begins in its middle.
  asm volatile(
      EDGEKILN_ZERO(8, 9, 10, 11)
      EDGEKILN_ZERO(12, 13, 14, 15)
      ".if %c[pairs] > 2\n\t"
      EDGEKILN_ZERO(16, 17, 18, 19)
      EDGEKILN_ZERO(20, 21, 22, 23)
      ".endif\n\t"
      ".if %c[pairs] > 4\n\t"
      EDGEKILN_ZERO(24, 25, 26, 27)
      EDGEKILN_ZERO(28, 29, 30, 31)
      ".endif\n\t"
      "tbnz %w[steps], #0, 2f\n"
      "1:\n\t"
      EDGEKILN_MULTIPLY_16
      EDGEKILN_MULTIPLY_16
      "2:\n\t"
      EDGEKILN_MULTIPLY_16
      EDGEKILN_MULTIPLY_16
      "subs %[twice], %[twice], #1\n\t"
      "b.ne 1b\n\t"
      "ld1 {v3.4s-v4.4s}, [%[column_scales]]\n\t"
      ".if %c[pairs] == 6\n\t"
      "ld1 {v0.4s-v2.4s}, [%[token_scales]]\n\t"
      ".endif\n\t"
      ".if %c[pairs] == 4\n\t"
      "ld1 {v0.4s-v1.4s}, [%[token_scales]]\n\t"
      ".endif\n\t"
      ".if %c[pairs] == 2\n\t"
      "ld1 {v0.4s}, [%[token_scales]]\n\t"
      ".endif\n\t"
      EDGEKILN_FINISH(0, 0, 1, 8, 9, 10, 11)
      EDGEKILN_FINISH(0, 2, 3, 12, 13, 14, 15)
      ".if %c[pairs] > 2\n\t"
      EDGEKILN_FINISH(1, 0, 1, 16, 17, 18, 19)
      EDGEKILN_FINISH(1, 2, 3, 20, 21, 22, 23)
      ".endif\n\t"
      ".if %c[pairs] > 4\n\t"
      EDGEKILN_FINISH(2, 0, 1, 24, 25, 26, 27)
      EDGEKILN_FINISH(2, 2, 3, 28, 29, 30, 31)
      ".endif"
      : [a] "+&r"(a), [b] "+&r"(b), [twice] "+&r"(twice), [out] "+&r"(out)
      : [pairs] "i"(Pairs), [row] "r"(row), [steps] "r"(steps), [token_scales] "r"(token_scales),
        [column_scales] "r"(column_scales), [stride] "r"(stride)
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
        "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",
        "v31");
}

#undef EDGEKILN_LOAD_TOKENS
#undef EDGEKILN_LOAD_COLUMNS
#undef EDGEKILN_MULTIPLY
#undef EDGEKILN_PAIR_0
#undef EDGEKILN_PAIR_1
#undef EDGEKILN_PAIR_2
#undef EDGEKILN_PAIR_3
#undef EDGEKILN_PAIR_4
#undef EDGEKILN_PAIR_5
#undef EDGEKILN_MULTIPLY_16
#undef EDGEKILN_FINISH

}  // namespace edgekiln::EDGEKILN_ISA
