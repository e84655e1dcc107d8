// The register tile of packed/nbits_tile.h with SDOT by lane: the activation codes of 16 values of k are one register,
// a lane of which multiplies four values of k of the four columns in a vector of weights. For NEON.
#pragma once

#include "kernels/packed/nbits_tile.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

// sums += 16 values of k, whose weight codes begin at `codes`, a row of a panel after the other.
template <int Bits, int TileM, int Vectors>
inline void add_16(int32x4_t (&sums)[TileM][Vectors], const int8x16_t (&a)[TileM], const std::uint8_t* codes) {
  using Dot = NBitsDot<Bits>;
  const auto add = [&]<int Lane>(Bytes weights, int j) {
#pragma GCC unroll 8
    for (int i = 0; i < TileM; ++i) sums[i][j] = Dot::template add_lane<Lane>(sums[i][j], Dot::weights(weights), a[i]);
  };
  const auto add_row = [&]<int Row>() {
    Bytes bytes[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      bytes[j] = load_bytes(codes + Row * kPanelWidth * sizeof(std::int32_t) + j * sizeof(Bytes));
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      if constexpr (Bits == 4) {
        add.template operator()<2 * Row>(low_nibbles(bytes[j]), j);
        add.template operator()<2 * Row + 1>(high_nibbles(bytes[j]), j);
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

// The scales and biases of a group in kLanes columns; packed/group_params.h says what they are. The members of the
// weight are copied, so that the compiler need not read them again after each store.
template <int Bits, bool HasFloat16>
class GroupLoader {
  using Param = std::conditional_t<HasFloat16, Float16, float>;

 public:
  explicit GroupLoader(const PackedNBits& weight)
      : codes_bytes_(weight.codes_bytes()),
        scheme_(weight.scheme),
        code_offset_(weight.code_offset),
        zero_point_scale_(weight.zero_point_scale) {}

  bool has_bias() const { return scheme_ != WeightScheme::kSymmetric || code_offset_ != 0.0f; }

  Floats scale(const std::uint8_t* block, std::size_t first) const { return load(params(block) + first); }

  Floats bias(const std::uint8_t* block, std::size_t first, Floats scale) const {
    if (scheme_ == WeightScheme::kGroupBias) {
      const Floats stored = load(params(block) + kPanelWidth + first);
      return HasFloat16 ? stored + scale * static_cast<float>(1 << (Bits - 1)) : stored;
    }
    if (scheme_ == WeightScheme::kSymmetric) return scale * code_offset_;
    const auto* zero_points = reinterpret_cast<const std::uint8_t*>(params(block) + kPanelWidth);
    return scale * (code_offset_ - load(zero_points + first) * zero_point_scale_);
  }

 private:
  const Param* params(const std::uint8_t* block) const { return reinterpret_cast<const Param*>(block + codes_bytes_); }

  std::size_t codes_bytes_;
  WeightScheme scheme_;
  float code_offset_, zero_point_scale_;
};

// Tokens [token, token + TileM) times columns [column, column + Vectors * kLanes) of one panel.
template <int Bits, bool HasFloat16, int TileM, int Vectors>
void nbits_tile_by_lane(const NBitsGemmArgs& args, std::size_t token, std::size_t column) {
  const PackedNBits& weight = args.weight;
  const GroupLoader<Bits, HasFloat16> loader(weight);
  const std::size_t blocks_per_group = weight.group_size / kBlock, block_bytes = weight.block_bytes();
  const std::size_t k = weight.k, m = args.m, n = weight.n, first = column % kPanelWidth, groups = args.groups;
  const bool has_bias = loader.has_bias();
  const std::int8_t* a = args.codes + token * k;
  const std::int32_t* compensation = args.compensation + token;
  const float *scales = args.scales + token, *group_sums = args.sums + token;
  const std::uint8_t* group_block = weight.panel(column / kPanelWidth);
  float32x4_t totals[TileM][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) totals[i][j] = vdupq_n_f32(0.0f);
  for (std::size_t group = 0; group < groups; ++group, group_block += block_bytes, group_sums += m) {
    const std::uint8_t* codes = group_block + first * sizeof(std::int32_t);
    for (std::size_t block = 0; block < blocks_per_group; ++block, a += kBlock, compensation += m, scales += m) {
      int32x4_t sums[TileM][Vectors];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sums[i][j] = vdupq_n_s32(compensation[i]);
#pragma GCC unroll 2
      for (std::size_t at = 0; at < kBlock; at += 16, codes += 16 * kPanelWidth * Bits / 8) {
        int8x16_t sixteen[TileM];
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) sixteen[i] = vld1q_s8(a + i * k + at);
        detail::add_16<Bits>(sums, sixteen, codes);
      }
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        const Floats scale = loader.scale(group_block, first + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i)
          totals[i][j] = vfmaq_f32(totals[i][j], vcvtq_f32_s32(sums[i][j]), scale * scales[i]);
      }
    }
    if (!has_bias) continue;
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      const std::size_t at = first + j * kLanes;
      const Floats bias = loader.bias(group_block, at, loader.scale(group_block, at));
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) totals[i][j] = vfmaq_n_f32(totals[i][j], bias, group_sums[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store_columns(args.out + (token + i) * n, n, column + j * kLanes, totals[i][j]);
}

}  // namespace edgekiln::EDGEKILN_ISA
