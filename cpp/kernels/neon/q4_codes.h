// The innermost step of requantizing 4-bit weights: eight columns of a group, in the order of q4_tile.h. For NEON.
//
// Code c of a column becomes (start + c * factor) / 256, modulo 2^16, which is exact as the result is within 127 steps.
// Its 16 values are the table of the column, in which the codes then select. All in assembly, as tables and the results
// of four selections have to be in neighbouring registers, which GCC 12 gets by copying or storing.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/pack/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

// Of codes in v4, v5 and v6, v7: of four columns each, 8 values of k in a register. Their low nibbles become indices
// there, their high nibbles in the operands odd0 .. odd3, whose own high nibbles stay as they are. SMMLA takes two
// columns a register, into which ST2 sorts what two registers have of them.
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define EDGEKILN_SELECT_AND_STORE(r0, r1, r2, r3, table, low0, low1, odd0, odd1, to) \
  EDGEKILN_TBL(r0, table, low0)                                                      \
  EDGEKILN_TBL(r1, table, low1)                                                      \
  EDGEKILN_TBL(r2, table, odd0)                                                      \
  EDGEKILN_TBL(r3, table, odd1)                                                      \
  "st2 {" r0 ".4s, " r1 ".4s}, [%[" to                                               \
  "]], #32\n\t"                                                                      \
  "st2 {" r2 ".4s, " r3 ".4s}, [%[" to "]], #32\n\t"
#else
#define EDGEKILN_SELECT_AND_STORE(r0, r1, r2, r3, table, low0, low1, odd0, odd1, to) \
  EDGEKILN_TBL(r0, table, low0)                                                      \
  EDGEKILN_TBL(r1, table, odd0)                                                      \
  EDGEKILN_TBL(r2, table, low1) EDGEKILN_TBL(r3, table, odd1) "st1 {" r0 ".16b-" r3 ".16b}, [%[" to "]], #64\n\t"
#endif
#define EDGEKILN_TBL(result, table, indices) "tbl " result ".16b, {" table "}, " indices ".16b\n\t"

// What requantize_codes() keeps in registers.
struct CodeConstants {
  int16x8_t low, high;               // the codes 0 .. 7 and 8 .. 15, or their values
  uint8x16_t nibble, table, odd[4];  // the table of a byte as its high nibble

  // Codes that index a codebook become its values.
  explicit CodeConstants(const PackedNBits& weight) {
    const bool looked_up = weight.scheme == WeightScheme::kCodebook;
    std::int16_t codes[kCodebookSize];
    for (std::size_t i = 0; i < kCodebookSize; ++i)
      codes[i] = static_cast<std::int16_t>(looked_up ? weight.codebook[i] : static_cast<int>(i));
    low = vld1q_s16(codes);
    high = vld1q_s16(codes + 8);
    nibble = vdupq_n_u8(15);
    static constexpr std::uint8_t kTableOfByte[16] = {0, 0, 0, 0, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 48};
    table = vld1q_u8(kTableOfByte);
    odd[0] = odd[1] = odd[2] = odd[3] = table;
    // Not to be loaded again before each use.
    asm("" : "+w"(low), "+w"(high), "+w"(nibble), "+w"(table));
  }
};

// Of eight columns of a group: a weight is scale * code + min, or scale * value with min 0.
struct EightSteps {
  float32x4_t scale[2], min[2];
};

// Added to a float, it leaves the nearest integer in the low 16 bits; to mins 128 more, which rounds.
inline constexpr float kToInt16 = 12582912.0f;  // 1.5 * 2^23
inline constexpr float kSumsToInt16[16] = {kToInt16,          kToInt16,          kToInt16,          kToInt16,
                                           kToInt16,          kToInt16,          kToInt16,          kToInt16,
                                           kToInt16 + 128.0f, kToInt16 + 128.0f, kToInt16 + 128.0f, kToInt16 + 128.0f,
                                           kToInt16 + 128.0f, kToInt16 + 128.0f, kToInt16 + 128.0f, kToInt16 + 128.0f};

// Requantizes eight of the 16 columns of a group, whose rows are `bytes`, to two strips, in steps of 256 / inverse.
// Advances all pointers. `bytes` is a multiple of those of 32 values of k, or, if not kLoop, those.
template <bool kLoop>
[[gnu::always_inline]] inline void requantize_codes(const std::uint8_t*& codes, std::size_t bytes,
                                                    const EightSteps& steps, const float32x4_t (&inverse)[2],
                                                    CodeConstants& constants, std::int8_t*& left, std::int8_t*& right) {
  const std::uint8_t* const end = codes + bytes;
  std::int16_t columns[8];
  asm volatile(
      // Factors in v15, starts in memory.
      "ld1 {v0.4s-v3.4s}, [%[to_int16]]\n\t"
      "ld1 {v4.4s-v7.4s}, [%[steps]]\n\t"
      "fmla v0.4s, v4.4s, %[inverse0].4s\n\t"
      "fmla v1.4s, v5.4s, %[inverse1].4s\n\t"
      "fmla v2.4s, v6.4s, %[inverse0].4s\n\t"
      "fmla v3.4s, v7.4s, %[inverse1].4s\n\t"
      "uzp1 v15.8h, v0.8h, v1.8h\n\t"
      "uzp1 v2.8h, v2.8h, v3.8h\n\t"
      "str q2, [%[starts]]\n\t"
      // The tables of the eight columns in v16 .. v23.
      "ld4r {v0.8h-v3.8h}, [%[starts]]\n\t"
      "ld4r {v4.8h-v7.8h}, [%[starts]]\n\t"
      "mla v0.8h, %[low].8h, v15.h[0]\n\t"
      "mla v1.8h, %[low].8h, v15.h[1]\n\t"
      "mla v2.8h, %[low].8h, v15.h[2]\n\t"
      "mla v3.8h, %[low].8h, v15.h[3]\n\t"
      "mla v4.8h, %[high].8h, v15.h[0]\n\t"
      "mla v5.8h, %[high].8h, v15.h[1]\n\t"
      "mla v6.8h, %[high].8h, v15.h[2]\n\t"
      "mla v7.8h, %[high].8h, v15.h[3]\n\t"
      "uzp2 v16.16b, v0.16b, v4.16b\n\t"
      "uzp2 v17.16b, v1.16b, v5.16b\n\t"
      "uzp2 v18.16b, v2.16b, v6.16b\n\t"
      "uzp2 v19.16b, v3.16b, v7.16b\n\t"
      "ld4r {v0.8h-v3.8h}, [%[more_starts]]\n\t"
      "ld4r {v4.8h-v7.8h}, [%[more_starts]]\n\t"
      "mla v0.8h, %[low].8h, v15.h[4]\n\t"
      "mla v1.8h, %[low].8h, v15.h[5]\n\t"
      "mla v2.8h, %[low].8h, v15.h[6]\n\t"
      "mla v3.8h, %[low].8h, v15.h[7]\n\t"
      "mla v4.8h, %[high].8h, v15.h[4]\n\t"
      "mla v5.8h, %[high].8h, v15.h[5]\n\t"
      "mla v6.8h, %[high].8h, v15.h[6]\n\t"
      "mla v7.8h, %[high].8h, v15.h[7]\n\t"
      "uzp2 v20.16b, v0.16b, v4.16b\n\t"
      "uzp2 v21.16b, v1.16b, v5.16b\n\t"
      "uzp2 v22.16b, v2.16b, v6.16b\n\t"
      "uzp2 v23.16b, v3.16b, v7.16b\n"
      "1:\n\t"
      ".rept 2\n\t"  // 16 values of k each
      "ldp q4, q6, [%[codes]], #64\n\t"
      "ldp q5, q7, [%[codes]], #64\n\t"
      "sri %[odd0].16b, v4.16b, #4\n\t"
      "sri %[odd1].16b, v5.16b, #4\n\t"
      "sri %[odd2].16b, v6.16b, #4\n\t"
      "sri %[odd3].16b, v7.16b, #4\n\t"
      "bif v4.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v5.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v6.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v7.16b, %[table].16b, %[nibble].16b\n\t"  //
      EDGEKILN_SELECT_AND_STORE("v0", "v1", "v2", "v3", "v16.16b-v19.16b", "v4", "v5", "%[odd0]", "%[odd1]", "left")
      EDGEKILN_SELECT_AND_STORE("v0", "v1", "v2", "v3", "v20.16b-v23.16b", "v6", "v7", "%[odd2]", "%[odd3]", "right")
      ".endr\n\t"
      ".if %c[loop]\n\t"
      "cmp %[codes], %[end]\n\t"
      "b.ne 1b\n\t"
      ".endif"
      : [codes] "+r"(codes), [left] "+r"(left), [right] "+r"(right), [odd0] "+w"(constants.odd[0]),
        [odd1] "+w"(constants.odd[1]), [odd2] "+w"(constants.odd[2]), [odd3] "+w"(constants.odd[3])
      : [loop] "i"(kLoop ? 1 : 0), [end] "r"(kLoop ? end : codes), [steps] "r"(&steps), [to_int16] "r"(kSumsToInt16), [inverse0] "w"(inverse[0]), [inverse1] "w"(inverse[1]),
        [starts] "r"(columns), [more_starts] "r"(columns + 4), [low] "w"(constants.low), [high] "w"(constants.high), [table] "w"(constants.table),
        [nibble] "w"(constants.nibble)
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
        "v23");
}

#undef EDGEKILN_SELECT_AND_STORE
#undef EDGEKILN_TBL

}  // namespace edgekiln::EDGEKILN_ISA
