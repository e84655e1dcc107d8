// The GEMV tiles of the per-token int8 GEMM with weights in the order of SMMLA (Int8Order::kEights): a whole panel of
// 16 columns, read once for up to four tokens. For NEON with FEAT_I8MM.
//
// Activations are pairs of tokens, each [k / 8][2][8]; a token without another fills both rows of its pair. For such a
// pair alone, SDOT multiplies as much as SMMLA would, and leaves two sums a column, of the halves of every 8 values of
// k.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace edgekiln::EDGEKILN_ISA {

namespace detail {

using PanelSums = int32x4_t[8];  // one for each pair of columns

#define EDGEKILN_SUMS(pair)                                                                                    \
  [s##pair##0] "=&w"(sums[pair][0]), [s##pair##1] "=&w"(sums[pair][1]), [s##pair##2] "=&w"(sums[pair][2]),     \
      [s##pair##3] "=&w"(sums[pair][3]), [s##pair##4] "=&w"(sums[pair][4]), [s##pair##5] "=&w"(sums[pair][5]), \
      [s##pair##6] "=&w"(sums[pair][6]), [s##pair##7] "=&w"(sums[pair][7])

#define EDGEKILN_ZERO(pair)        \
  "movi %[s" #pair "0].4s, #0\n\t" \
  "movi %[s" #pair "1].4s, #0\n\t" \
  "movi %[s" #pair "2].4s, #0\n\t" \
  "movi %[s" #pair "3].4s, #0\n\t" \
  "movi %[s" #pair "4].4s, #0\n\t" \
  "movi %[s" #pair "5].4s, #0\n\t" \
  "movi %[s" #pair "6].4s, #0\n\t" \
  "movi %[s" #pair "7].4s, #0\n\t"

#define EDGEKILN_LOAD_COLUMNS             \
  "ld1 {v8.16b-v11.16b}, [%[b]], #64\n\t" \
  "ld1 {v12.16b-v15.16b}, [%[b]], #64\n\t"

// A pair of tokens, in v`a`, times the panel, for 8 values of k.
#define EDGEKILN_MULTIPLY(op, pair, a)                                                                              \
  op " %[s" #pair "0].4s, v8.16b, v" #a ".16b\n\t" op " %[s" #pair "1].4s, v9.16b, v" #a ".16b\n\t" op " %[s" #pair \
     "2].4s, v10.16b, v" #a ".16b\n\t" op " %[s" #pair "3].4s, v11.16b, v" #a ".16b\n\t" op " %[s" #pair            \
     "4].4s, v12.16b, v" #a ".16b\n\t" op " %[s" #pair "5].4s, v13.16b, v" #a ".16b\n\t" op " %[s" #pair            \
     "6].4s, v14.16b, v" #a ".16b\n\t" op " %[s" #pair "7].4s, v15.16b, v" #a ".16b\n\t"

#define EDGEKILN_ONE_PAIR(op)                                                                                          \
  asm volatile(                                                                                                        \
      EDGEKILN_ZERO(0) "1:\n\t"                                                                                        \
                       "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t" EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY(op, 0, 0)        \
                           EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY(op, 0, 1)                                           \
                               EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY(op, 0, 2)                                       \
                                   EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY(op, 0, 3) "subs %[steps], %[steps], #1\n\t" \
                                                                                     "b.ne 1b"                         \
      : [a] "+&r"(a), [b] "+&r"(b), [steps] "+&r"(steps), EDGEKILN_SUMS(0)                                             \
      :                                                                                                                \
      : "cc", "memory", "v0", "v1", "v2", "v3", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15")

// sums of one token: [k / 4 % 2 and column] as SDOT leaves them, in steps of 32 values of k.
inline void multiply_panel_by_one(const std::int8_t* a, const std::int8_t* b, std::size_t steps, PanelSums (&sums)[1]) {
  EDGEKILN_ONE_PAIR("sdot");
}

// sums[pair of tokens][pair of columns] = [column][token] of SMMLA. `stride` bytes are between pairs of tokens.
inline void multiply_panel(const std::int8_t* a, const std::int8_t* b, std::size_t, std::size_t steps,
                           PanelSums (&sums)[1]) {
  EDGEKILN_ONE_PAIR("smmla");
}

inline void multiply_panel(const std::int8_t* a, const std::int8_t* b, std::size_t stride, std::size_t steps,
                           PanelSums (&sums)[2]) {
  const std::int8_t* second = a + stride;
  asm volatile(
      EDGEKILN_ZERO(0) EDGEKILN_ZERO(
          1) "1:\n\t"
             "ld1 {v0.16b-v3.16b}, [%[a]], #64\n\t"
             "ld1 {v4.16b-v7.16b}, [%[second]], #64\n\t" EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY("smmla", 0, 0)
                 EDGEKILN_MULTIPLY("smmla", 1, 4) EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY("smmla", 0, 1)
                     EDGEKILN_MULTIPLY("smmla", 1, 5) EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY("smmla", 0, 2)
                         EDGEKILN_MULTIPLY("smmla", 1, 6) EDGEKILN_LOAD_COLUMNS EDGEKILN_MULTIPLY("smmla", 0, 3)
                             EDGEKILN_MULTIPLY("smmla", 1, 7) "subs %[steps], %[steps], #1\n\t"
                                                              "b.ne 1b"
      : [a] "+&r"(a), [second] "+&r"(second), [b] "+&r"(b), [steps] "+&r"(steps), EDGEKILN_SUMS(0), EDGEKILN_SUMS(1)
      :
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
        "v15");
}

#undef EDGEKILN_SUMS
#undef EDGEKILN_ZERO
#undef EDGEKILN_LOAD_COLUMNS
#undef EDGEKILN_MULTIPLY
#undef EDGEKILN_ONE_PAIR

}  // namespace detail
}  // namespace edgekiln::EDGEKILN_ISA
