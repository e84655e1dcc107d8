// One token times one panel of 4- or 8-bit codes in groups of kBlock: most of decoding. For NEON.
//
// The dot products are in assembly, as LD1 of four registers needs neighbours, which GCC 12 gets by copying.
#pragma once

#include <arm_neon.h>

#include "kernels/neon/float16_convert.h"
#include "kernels/packed/nbits_activations.h"
#include "kernels/packed/packed_gemm.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

// sums = *start + kBlock values of k times the 16 columns of a panel. Advances the pointers.
template <int Bits>
[[gnu::always_inline]] inline void multiply_block(int32x4_t (&sums)[4], const std::int32_t*& start,
                                                  const std::int8_t*& a, const std::uint8_t*& codes,
                                                  const CodeTable<Bits>& table) {
#define EDGEKILN_START                    \
  "ld1r {%0.4s}, [%[start]], #4\n\t"      \
  "ld1 {v0.16b, v1.16b}, [%[a]], #32\n\t" \
  "mov %1.16b, %0.16b\n\t"                \
  "mov %2.16b, %0.16b\n\t"                \
  "mov %3.16b, %0.16b\n\t"
#define EDGEKILN_SDOT(sum, weights, lane) "sdot %" #sum ".4s, v" #weights ".16b, " lane "\n\t"
#define EDGEKILN_SDOTS(w0, w1, w2, w3, lane) \
  EDGEKILN_SDOT(0, w0, lane)                 \
  EDGEKILN_SDOT(1, w1, lane)                 \
  EDGEKILN_SDOT(2, w2, lane)                 \
  EDGEKILN_SDOT(3, w3, lane)
#define EDGEKILN_LOAD_ROW "ld1 {v20.16b-v23.16b}, [%[codes]], #64\n\t"
#define EDGEKILN_ROW_8(lane) EDGEKILN_LOAD_ROW EDGEKILN_SDOTS(20, 21, 22, 23, lane)
#define EDGEKILN_NIBBLES                    \
  EDGEKILN_LOAD_ROW                         \
  "and v24.16b, v20.16b, %[nibble].16b\n\t" \
  "and v25.16b, v21.16b, %[nibble].16b\n\t" \
  "and v26.16b, v22.16b, %[nibble].16b\n\t" \
  "and v27.16b, v23.16b, %[nibble].16b\n\t" \
  "ushr v20.16b, v20.16b, #4\n\t"           \
  "ushr v21.16b, v21.16b, #4\n\t"           \
  "ushr v22.16b, v22.16b, #4\n\t"           \
  "ushr v23.16b, v23.16b, #4\n\t"
#define EDGEKILN_ROW_4(even, odd) \
  EDGEKILN_NIBBLES EDGEKILN_SDOTS(24, 25, 26, 27, even) EDGEKILN_SDOTS(20, 21, 22, 23, odd)
#define EDGEKILN_LOOK_UP(codes) "tbl v" #codes ".16b, {%[table].16b}, v" #codes ".16b\n\t"
#define EDGEKILN_LOOK_UPS(w0, w1, w2, w3) \
  EDGEKILN_LOOK_UP(w0)                    \
  EDGEKILN_LOOK_UP(w1)                    \
  EDGEKILN_LOOK_UP(w2)                    \
  EDGEKILN_LOOK_UP(w3)
#define EDGEKILN_ROW_OF_CODEBOOK(even, odd) \
  EDGEKILN_NIBBLES                          \
  EDGEKILN_LOOK_UPS(24, 25, 26, 27)         \
  EDGEKILN_LOOK_UPS(20, 21, 22, 23)         \
  EDGEKILN_SDOTS(24, 25, 26, 27, even)      \
  EDGEKILN_SDOTS(20, 21, 22, 23, odd)
  const auto& a_block = *reinterpret_cast<const std::int8_t (*)[kBlock]>(a);
  const auto& codes_block =
      *reinterpret_cast<const std::uint8_t (*)[kBlock * kPanelWidth * stored_bits(Bits) / 8]>(codes);
  if constexpr (Bits == 4) {
    asm(EDGEKILN_START                              //
            EDGEKILN_ROW_4("v0.4b[0]", "v0.4b[1]")  //
        EDGEKILN_ROW_4("v0.4b[2]", "v0.4b[3]")      //
        EDGEKILN_ROW_4("v1.4b[0]", "v1.4b[1]")      //
        EDGEKILN_ROW_4("v1.4b[2]", "v1.4b[3]")
        : "=&w"(sums[0]), "=&w"(sums[1]), "=&w"(sums[2]),
          "=&w"(sums[3]), [start] "+r"(start), [a] "+r"(a), [codes] "+r"(codes)
        : [nibble] "w"(vdupq_n_u8(15)), "m"(*start), "m"(a_block), "m"(codes_block)
        : "v0", "v1", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27");
  } else if constexpr (Bits == kCodebookCodes) {
    asm(EDGEKILN_START                                        //
            EDGEKILN_ROW_OF_CODEBOOK("v0.4b[0]", "v0.4b[1]")  //
        EDGEKILN_ROW_OF_CODEBOOK("v0.4b[2]", "v0.4b[3]")      //
        EDGEKILN_ROW_OF_CODEBOOK("v1.4b[0]", "v1.4b[1]")      //
        EDGEKILN_ROW_OF_CODEBOOK("v1.4b[2]", "v1.4b[3]")
        : "=&w"(sums[0]), "=&w"(sums[1]), "=&w"(sums[2]),
          "=&w"(sums[3]), [start] "+r"(start), [a] "+r"(a), [codes] "+r"(codes)
        : [nibble] "w"(vdupq_n_u8(15)), [table] "w"(table.table), "m"(*start), "m"(a_block), "m"(codes_block)
        : "v0", "v1", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27");
  } else {
    asm(EDGEKILN_START                                             //
            EDGEKILN_ROW_8("v0.4b[0]") EDGEKILN_ROW_8("v0.4b[1]")  //
        EDGEKILN_ROW_8("v0.4b[2]") EDGEKILN_ROW_8("v0.4b[3]")      //
        EDGEKILN_ROW_8("v1.4b[0]") EDGEKILN_ROW_8("v1.4b[1]")      //
        EDGEKILN_ROW_8("v1.4b[2]") EDGEKILN_ROW_8("v1.4b[3]")
        : "=&w"(sums[0]), "=&w"(sums[1]), "=&w"(sums[2]),
          "=&w"(sums[3]), [start] "+r"(start), [a] "+r"(a), [codes] "+r"(codes)
        : "m"(*start), "m"(a_block), "m"(codes_block)
        : "v0", "v1", "v20", "v21", "v22", "v23");
  }
#undef EDGEKILN_START
#undef EDGEKILN_SDOT
#undef EDGEKILN_SDOTS
#undef EDGEKILN_LOAD_ROW
#undef EDGEKILN_ROW_8
#undef EDGEKILN_ROW_4
#undef EDGEKILN_NIBBLES
#undef EDGEKILN_LOOK_UP
#undef EDGEKILN_LOOK_UPS
#undef EDGEKILN_ROW_OF_CODEBOOK
}

// The 16 scales of a panel's columns, and their biases: the float16 ones are stored less scale * midpoint. Advances
// `from`.
[[gnu::always_inline]] inline void load_panel_params(const Float16*& from, float32x4_t (&scales)[4]) {
  const uint16x8x2_t both = vld1q_u16_x2(&from->bits);
  from += kPanelWidth;
  floats_of_float16(both.val[0], both.val[1], scales);
}
[[gnu::always_inline]] inline void load_panel_params(const Float16*& from, float midpoint, float32x4_t (&scales)[4],
                                                     float32x4_t (&biases)[4]) {
  const uint16x8x4_t all = vld1q_u16_x4(&from->bits);
  from += 2 * kPanelWidth;
  floats_of_float16(all.val[0], all.val[1], scales);
  // In assembly, as GCC 12 copies the accumulators of the intrinsics.
#define EDGEKILN_ADD(convert, half, j)                          \
  asm(convert " %0.4s, %1." half "\n\tfmla %0.4s, %2.4s, %3.4s" \
      : "=&w"(biases[j])                                        \
      : "w"(all.val[2 + j / 2]), "w"(scales[j]), "w"(vdupq_n_f32(midpoint)))
  EDGEKILN_ADD("fcvtl", "4h", 0);
  EDGEKILN_ADD("fcvtl2", "8h", 1);
  EDGEKILN_ADD("fcvtl", "4h", 2);
  EDGEKILN_ADD("fcvtl2", "8h", 3);
#undef EDGEKILN_ADD
}

[[gnu::always_inline]] inline void load_panel_params(const float*& from, float32x4_t (&scales)[4]) {
  const float32x4x4_t all = vld1q_f32_x4(from);
  from += kPanelWidth;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) scales[j] = all.val[j];
}
[[gnu::always_inline]] inline void load_panel_params(const float*& from, float, float32x4_t (&scales)[4],
                                                     float32x4_t (&biases)[4]) {
  load_panel_params(from, scales);
  load_panel_params(from, biases);
}

}  // namespace detail

enum class PanelBias { kNone, kCodeOffset, kGroupBias };

// In the order of nbits_tile_by_lane(), whose result it has to the bit.
template <int Bits, typename Param, PanelBias kBias>
void nbits_gemv_panel(const NBitsGemmArgs& args, std::size_t panel) {
  const PackedNBits& weight = args.weight;
  const float code_offset = weight.code_offset;
  const std::int8_t* a = args.codes;
  const std::int32_t* compensation = args.compensation;
  const float *scales = args.scales, *group_sums = args.sums;
  const std::uint8_t* block = weight.panel(panel);
  const CodeTable<Bits> table(weight);
  float32x4_t totals[4] = {};
  for (const float* const end = scales + args.groups; scales != end;) {
    int32x4_t sums[4];
    detail::multiply_block<Bits>(sums, compensation, a, block, table);
    const auto* params = reinterpret_cast<const Param*>(block);
    float32x4_t group_scales[4], biases[4];
    if constexpr (kBias == PanelBias::kGroupBias) {
      detail::load_panel_params(params, static_cast<float>(1 << (stored_bits(Bits) - 1)), group_scales, biases);
    } else {
      detail::load_panel_params(params, group_scales);
    }
    block = reinterpret_cast<const std::uint8_t*>(params);
    const float scale = *scales++, group_sum = *group_sums++;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      totals[j] = vfmaq_f32(totals[j], vcvtq_f32_s32(sums[j]), vmulq_n_f32(group_scales[j], scale));
    if constexpr (kBias == PanelBias::kNone) continue;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if constexpr (kBias == PanelBias::kCodeOffset) biases[j] = group_scales[j] * code_offset;
      totals[j] = vfmaq_n_f32(totals[j], biases[j], group_sum);
    }
  }
  Floats results[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) results[j] = totals[j];
  for (int j = 0; j < 4; ++j) store_columns(args.out, weight.n, panel * kPanelWidth + j * kLanes, results[j]);
}

// The kernel above for the weight of `args`, null if there is none.
template <int Bits, typename Param>
auto nbits_gemv_panel_for(const NBitsGemmArgs& args) -> void (*)(const NBitsGemmArgs&, std::size_t) {
  const PackedNBits& weight = args.weight;
  if (args.m != 1 || weight.group_size != kBlock || weight.scheme == WeightScheme::kZeroPoints) return nullptr;
  if constexpr (Bits == kCodebookCodes) return nbits_gemv_panel<Bits, Param, PanelBias::kNone>;
  if (weight.scheme == WeightScheme::kGroupBias) return nbits_gemv_panel<Bits, Param, PanelBias::kGroupBias>;
  return weight.code_offset != 0.0f ? nbits_gemv_panel<Bits, Param, PanelBias::kCodeOffset>
                                    : nbits_gemv_panel<Bits, Param, PanelBias::kNone>;
}

}  // namespace edgekiln::EDGEKILN_ISA
