// The register tile of packed/nbits_tile.h with SDOT by lane: the activation codes of 16 values of k are one register,
// a lane of which multiplies four values of k of the four columns in a vector of weights. For NEON.
#pragma once

#include "kernels/neon/nbits_gemv.h"
#include "kernels/packed/nbits_tile.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

// sums += 16 values of k, whose weight codes begin at `codes`, a row of a panel after the other.
template <int Bits, int TileM, int Vectors>
inline void add_16(int32x4_t (&sums)[TileM][Vectors], const int8x16_t (&a)[TileM], const std::uint8_t* codes,
                   const CodeTable<Bits>& table) {
  using Dot = NBitsDot<multiplied_bits(Bits)>;
  const auto add = [&]<int Lane>(Bytes bytes, int j) {
    const auto weights = Dot::weights(bytes);
#pragma GCC unroll 8
    for (int i = 0; i < TileM; ++i) Dot::template add_lane<Lane>(sums[i][j], weights, a[i]);
  };
  Ints upper_bits[Vectors];
  if constexpr (Bits == 6) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) upper_bits[j] = load_upper_bits(codes + j * sizeof(Bytes));
  }
  const auto add_row = [&]<int Row>() {
    Bytes bytes[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      bytes[j] = load_bytes(codes + Row * kPanelWidth * sizeof(std::int32_t) + j * sizeof(Bytes));
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      if constexpr (stored_bits(Bits) == 4) {
        add.template operator()<2 * Row>(table(low_nibbles(bytes[j])), j);
        add.template operator()<2 * Row + 1>(table(high_nibbles(bytes[j])), j);
      } else if constexpr (Bits == 6) {
        add.template operator()<2 * Row>(six_bit_codes(low_nibbles(bytes[j]), upper_bits[j], 2 * Row), j);
        add.template operator()<2 * Row + 1>(six_bit_codes(high_nibbles(bytes[j]), upper_bits[j], 2 * Row + 1), j);
      } else {
        add.template operator()<Row>(bytes[j], j);
      }
    }
  };
  add_row.template operator()<0>();
  add_row.template operator()<1>();
  if constexpr (Bits == 8) {
    add_row.template operator()<2>();
    add_row.template operator()<3>();
  }
}

}  // namespace detail

// Vectors * kLanes scales or biases.
template <int Vectors, typename Param>
[[gnu::always_inline]] inline void load_params(const Param* from, Floats (&to)[Vectors]) {
  if constexpr (std::is_same_v<Param, Float16> && Vectors == 4) {
    // Two vectors from each load.
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
      const float16x8_t both = vreinterpretq_f16_u16(vld1q_u16(&from[j * kLanes].bits));
      to[j] = vcvt_f32_f16(vget_low_f16(both));
      to[j + 1] = vcvt_high_f32_f16(both);
    }
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) to[j] = load(from + j * kLanes);
  }
}

// The scales and biases of a group in Vectors * kLanes columns; packed/group_params.h says what they are. The members
// of the weight are copied, so that the compiler need not read them again after each store.
template <int Bits, Scales kScales, int Vectors>
class GroupLoader {
  using Param = std::conditional_t<kScales == Scales::kFloat16, Float16, float>;

 public:
  // Of columns from `first` of the panel on.
  GroupLoader(const PackedNBits& weight, std::size_t first)
      : offset_(weight.codes_bytes() + first * sizeof(Param)),
        zero_offset_(weight.codes_bytes() + kPanelWidth * sizeof(Param) + first),
        scheme_(weight.scheme),
        code_offset_(weight.code_offset),
        zero_point_scale_(weight.zero_point_scale) {}

  [[gnu::always_inline]] void load_scales(const std::uint8_t* block, Floats (&scales)[Vectors]) const {
    load_params(params(block), scales);
  }

  [[gnu::always_inline]] void load_biases(const std::uint8_t* block, const Floats (&scales)[Vectors],
                                          Floats (&biases)[Vectors]) const {
    if (scheme_ == WeightScheme::kGroupBias) {
      load_params(params(block) + kPanelWidth, biases);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors && kScales == Scales::kFloat16; ++j)
        biases[j] = vfmaq_n_f32(biases[j], scales[j], static_cast<float>(1 << (stored_bits(Bits) - 1)));
      return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      biases[j] = scales[j] * code_offset_;
      if (scheme_ == WeightScheme::kZeroPoints)
        biases[j] = scales[j] * (code_offset_ - load(block + zero_offset_ + j * kLanes) * zero_point_scale_);
    }
  }

 private:
  const Param* params(const std::uint8_t* block) const { return reinterpret_cast<const Param*>(block + offset_); }

  std::size_t offset_, zero_offset_;
  WeightScheme scheme_;
  float code_offset_, zero_point_scale_;
};

// Tokens [token, token + TileM) times columns [column, column + Vectors * kLanes) of one panel.
template <int Bits, Scales kScales, std::size_t Step, int TileM, int Vectors>
void nbits_tile_by_lane(const NBitsGemmArgs& args, std::size_t token, std::size_t column) {
  const PackedNBits& weight = args.weight;
  if constexpr (TileM == 1 && Vectors == kPanelVectors && Step == kBlock) {
    using Param = std::conditional_t<kScales == Scales::kFloat16, Float16, float>;
    if (auto* const gemv = nbits_gemv_panel_for<Bits, Param>(args)) return gemv(args, column / kPanelWidth);
  }
  const std::size_t steps_per_group = weight.group_size / Step, block_bytes = weight.block_bytes();
  const std::size_t k = weight.k, m = args.m, n = weight.n, first = column % kPanelWidth, groups = args.groups;
  const GroupLoader<Bits, kScales, Vectors> loader(weight, first);
  const std::uint8_t* const panel = weight.panel(column / kPanelWidth);
  const bool has_bias = weight.has_bias();
  const CodeTable<Bits> table(weight);
  const std::int8_t* a = args.codes + token * k;
  const std::int32_t* compensation = args.compensation + token;
  const float *scales = args.scales + token, *group_sums = args.sums + token;
  const std::uint8_t* group_block = weight.blocks(column / kPanelWidth);
  float32x4_t totals[TileM][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) totals[i][j] = vdupq_n_f32(0.0f);
  for (std::size_t group = 0; group < groups; ++group, group_block += block_bytes, group_sums += m) {
    const std::uint8_t* codes = group_block + first * sizeof(std::int32_t);
    Floats group_scales[Vectors]{};
    for (std::size_t step = 0; step < steps_per_group; ++step, a += Step, compensation += m, scales += m) {
      int32x4_t sums[TileM][Vectors];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sums[i][j] = vdupq_n_s32(compensation[i]);
#pragma GCC unroll 2
      for (std::size_t at = 0; at < Step; at += 16, codes += 16 * kPanelWidth * stored_bits(Bits) / 8) {
        int8x16_t sixteen[TileM];
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) sixteen[i] = vld1q_s8(a + i * k + at);
        detail::add_16<Bits>(sums, sixteen, codes, table);
      }
      if constexpr (kScales == Scales::kFactored) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j)
          group_scales[j] = factored_scales(weight, panel, group_block, group, first + j * kLanes);
      } else {
        loader.load_scales(group_block, group_scales);
      }
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i)
          totals[i][j] = vfmaq_f32(totals[i][j], vcvtq_f32_s32(sums[i][j]), vmulq_n_f32(group_scales[j], scales[i]));
    }
    if (!has_bias) continue;
    Floats biases[Vectors];
    loader.load_biases(group_block, group_scales, biases);
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) totals[i][j] = vfmaq_n_f32(totals[i][j], biases[j], group_sums[i]);
  }
  // Copied to memory first: with the stores on the accumulators themselves, GCC spills them in the loop above.
  Floats results[TileM * Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) results[i * Vectors + j] = totals[i][j];
  for (int i = 0; i < TileM; ++i)
    for (int j = 0; j < Vectors; ++j)
      store_columns(args.out + (token + i) * n, n, column + j * kLanes, results[i * Vectors + j]);
}

}  // namespace edgekiln::EDGEKILN_ISA
