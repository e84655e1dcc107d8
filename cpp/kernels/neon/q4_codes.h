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

// Codes in v4, v5 and v6, v7: of four columns each, 16 values of k. Their low nibbles become indices there, their high
// nibbles in the operands odd0 .. odd3, whose own high nibbles stay as they are. With SMMLA each register has the codes
// of two columns, else of four.
#if defined(__ARM_FEATURE_MATMUL_INT8)

inline constexpr std::uint8_t kTableOfByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16};

#define EDGEKILN_LOAD_CODES         \
  "ldp q0, q1, [%[codes]], #64\n\t" \
  "ldp q2, q3, [%[codes]], #64\n\t" \
  "zip1 v4.4s, v0.4s, v2.4s\n\t"    \
  "zip2 v5.4s, v0.4s, v2.4s\n\t"    \
  "zip1 v6.4s, v1.4s, v3.4s\n\t"    \
  "zip2 v7.4s, v1.4s, v3.4s\n\t"

#define EDGEKILN_SELECT                             \
  "tbl v0.16b, {v16.16b, v17.16b}, v4.16b\n\t"      \
  "tbl v1.16b, {v18.16b, v19.16b}, v5.16b\n\t"      \
  "tbl v2.16b, {v16.16b, v17.16b}, %[odd0].16b\n\t" \
  "tbl v3.16b, {v18.16b, v19.16b}, %[odd1].16b\n\t" \
  "tbl v4.16b, {v20.16b, v21.16b}, v6.16b\n\t"      \
  "tbl v5.16b, {v22.16b, v23.16b}, v7.16b\n\t"      \
  "tbl v6.16b, {v20.16b, v21.16b}, %[odd2].16b\n\t" \
  "tbl v7.16b, {v22.16b, v23.16b}, %[odd3].16b\n\t"

#else

inline constexpr std::uint8_t kTableOfByte[16] = {0, 0, 0, 0, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 48};

#define EDGEKILN_LOAD_CODES         \
  "ldp q4, q6, [%[codes]], #64\n\t" \
  "ldp q5, q7, [%[codes]], #64\n\t"

#define EDGEKILN_SELECT                            \
  "tbl v0.16b, {v16.16b-v19.16b}, v4.16b\n\t"      \
  "tbl v1.16b, {v16.16b-v19.16b}, %[odd0].16b\n\t" \
  "tbl v2.16b, {v16.16b-v19.16b}, v5.16b\n\t"      \
  "tbl v3.16b, {v16.16b-v19.16b}, %[odd1].16b\n\t" \
  "tbl v4.16b, {v20.16b-v23.16b}, v6.16b\n\t"      \
  "tbl v5.16b, {v20.16b-v23.16b}, %[odd2].16b\n\t" \
  "tbl v6.16b, {v20.16b-v23.16b}, v7.16b\n\t"      \
  "tbl v7.16b, {v20.16b-v23.16b}, %[odd3].16b\n\t"

#endif

// What requantize_codes() keeps in registers.
struct CodeConstants {
  int16x8_t low, high;               // the codes 0 .. 7 and 8 .. 15
  uint8x16_t nibble, table, odd[4];  // the table of a byte as its high nibble

  CodeConstants() {
    static constexpr std::int16_t kCodes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    low = vld1q_s16(kCodes);
    high = vld1q_s16(kCodes + 8);
    nibble = vdupq_n_u8(15);
    table = vld1q_u8(kTableOfByte);
    odd[0] = odd[1] = odd[2] = odd[3] = table;
    // Not to be loaded again before each use.
    asm("" : "+w"(low), "+w"(high), "+w"(nibble), "+w"(table));
  }
};

// Requantizes the codes of eight columns of a group, in rows of 16 columns, to two strips. group_size is a multiple of
// 32.
[[gnu::always_inline]] inline void requantize_codes(const std::uint8_t* codes, std::size_t group_size,
                                                    int16x8_t factors, int16x8_t starts, CodeConstants& constants,
                                                    std::int8_t* left, std::int8_t* right) {
  const std::uint8_t* const end = codes + group_size * kPanelWidth / 2;
  std::int16_t columns[8];
  vst1q_s16(columns, starts);
  asm volatile(
      // The tables of the eight columns in v16 .. v23.
      "ld4r {v0.8h-v3.8h}, [%[starts]]\n\t"
      "ld4r {v4.8h-v7.8h}, [%[starts]]\n\t"
      "mla v0.8h, %[low].8h, %[factors].h[0]\n\t"
      "mla v1.8h, %[low].8h, %[factors].h[1]\n\t"
      "mla v2.8h, %[low].8h, %[factors].h[2]\n\t"
      "mla v3.8h, %[low].8h, %[factors].h[3]\n\t"
      "mla v4.8h, %[high].8h, %[factors].h[0]\n\t"
      "mla v5.8h, %[high].8h, %[factors].h[1]\n\t"
      "mla v6.8h, %[high].8h, %[factors].h[2]\n\t"
      "mla v7.8h, %[high].8h, %[factors].h[3]\n\t"
      "uzp2 v16.16b, v0.16b, v4.16b\n\t"
      "uzp2 v17.16b, v1.16b, v5.16b\n\t"
      "uzp2 v18.16b, v2.16b, v6.16b\n\t"
      "uzp2 v19.16b, v3.16b, v7.16b\n\t"
      "ld4r {v0.8h-v3.8h}, [%[more_starts]]\n\t"
      "ld4r {v4.8h-v7.8h}, [%[more_starts]]\n\t"
      "mla v0.8h, %[low].8h, %[factors].h[4]\n\t"
      "mla v1.8h, %[low].8h, %[factors].h[5]\n\t"
      "mla v2.8h, %[low].8h, %[factors].h[6]\n\t"
      "mla v3.8h, %[low].8h, %[factors].h[7]\n\t"
      "mla v4.8h, %[high].8h, %[factors].h[4]\n\t"
      "mla v5.8h, %[high].8h, %[factors].h[5]\n\t"
      "mla v6.8h, %[high].8h, %[factors].h[6]\n\t"
      "mla v7.8h, %[high].8h, %[factors].h[7]\n\t"
      "uzp2 v20.16b, v0.16b, v4.16b\n\t"
      "uzp2 v21.16b, v1.16b, v5.16b\n\t"
      "uzp2 v22.16b, v2.16b, v6.16b\n\t"
      "uzp2 v23.16b, v3.16b, v7.16b\n"
      "1:\n\t"
      ".rept 2\n\t"  // 16 values of k each
      EDGEKILN_LOAD_CODES
      "sri %[odd0].16b, v4.16b, #4\n\t"
      "sri %[odd1].16b, v5.16b, #4\n\t"
      "sri %[odd2].16b, v6.16b, #4\n\t"
      "sri %[odd3].16b, v7.16b, #4\n\t"
      "bif v4.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v5.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v6.16b, %[table].16b, %[nibble].16b\n\t"
      "bif v7.16b, %[table].16b, %[nibble].16b\n\t" EDGEKILN_SELECT
      "st1 {v0.16b-v3.16b}, [%[left]], #64\n\t"
      "st1 {v4.16b-v7.16b}, [%[right]], #64\n\t"
      ".endr\n\t"
      "cmp %[codes], %[end]\n\t"
      "b.ne 1b"
      : [codes] "+r"(codes), [left] "+r"(left), [right] "+r"(right), [odd0] "+w"(constants.odd[0]),
        [odd1] "+w"(constants.odd[1]), [odd2] "+w"(constants.odd[2]), [odd3] "+w"(constants.odd[3])
      : [end] "r"(end), [starts] "r"(columns), [more_starts] "r"(columns + 4), [factors] "x"(factors),
        [low] "w"(constants.low), [high] "w"(constants.high), [table] "w"(constants.table),
        [nibble] "w"(constants.nibble)
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
        "v23");
}

#undef EDGEKILN_LOAD_CODES
#undef EDGEKILN_SELECT

}  // namespace edgekiln::EDGEKILN_ISA
