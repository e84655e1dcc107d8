// Register tiles of the n-bit GEMM and GEMV: TileM tokens times Vectors vectors of columns.
#pragma once

#include "kernels/packed/codebook.h"
#include "kernels/packed/group_params.h"
#include "kernels/packed/nbits_activations.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/packed/six_bit_codes.h"

namespace edgekiln::EDGEKILN_ISA {

// Tokens [token, token + TileM) times columns [column, column + Vectors * kLanes).
template <int Bits, Scales kScales, std::size_t Step, int TileM, int Vectors>
void nbits_tile(const NBitsGemmArgs& args, std::size_t token, std::size_t column) {
  using Dot = NBitsDot<multiplied_bits(Bits)>;
  const PackedNBits& weight = args.weight;
  const std::size_t steps_per_group = weight.group_size / Step, block_bytes = weight.block_bytes();
  const std::size_t k = weight.k, panel_bytes = weight.panel_bytes(), m = args.m;
  const bool has_bias = weight.has_bias();
  const CodeTable<Bits> table(weight);
  const std::int8_t* a = args.codes + token * k;
  const std::int32_t* compensation = args.compensation + token;
  const float *scales = args.scales + token, *group_sums = args.sums + token;
  const std::uint8_t* const first_panel = weight.panel(column / kPanelWidth);
  const std::uint8_t* group_block = weight.blocks(column / kPanelWidth);
  const auto params = [&](int j) {
    const std::size_t vector = column % kPanelWidth / kLanes + j;
    return GroupParams<kScales == Scales::kFloat16>(weight, group_block + vector / kPanelVectors * panel_bytes,
                                                    vector % kPanelVectors * kLanes);
  };
  const auto scale_of = [&](std::size_t group, int j) {
    if constexpr (kScales != Scales::kFactored) return params(j).scale;
    const std::size_t vector = column % kPanelWidth / kLanes + j, panel = vector / kPanelVectors;
    return factored_scales(weight, first_panel + panel * panel_bytes, group_block + panel * panel_bytes, group,
                           vector % kPanelVectors * kLanes);
  };
  Floats totals[TileM][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) totals[i][j] = Floats{};
  for (std::size_t group = 0; group < args.groups; ++group, group_block += block_bytes, group_sums += m) {
    if constexpr (Vectors <= kPanelVectors) {
      for (std::size_t line = 0; line < block_bytes; line += 64) prefetch_ahead(group_block + line);
    }
    const std::uint8_t* codes = group_block;
    for (std::size_t step = 0; step < steps_per_group; ++step, a += Step, compensation += m, scales += m) {
      typename Dot::Sum sums[TileM][Vectors];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sums[i][j] = Dot::start(compensation[i]);
      Ints upper_bits[Vectors];
      if constexpr (Bits == 6) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j)
          upper_bits[j] = load_upper_bits(codes + vector_offset(column, j, panel_bytes));
      }
      constexpr int kRows = Bits == 8 ? Step / 4 : Step / 8;
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row, codes += kNBitsRowBytes) {
        typename Dot::Weights low[Vectors], high[Vectors];
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) {
          const Bytes bytes = load_bytes(codes + vector_offset(column, j, panel_bytes));
          if constexpr (stored_bits(Bits) == 4) {
            low[j] = Dot::weights(table(low_nibbles(bytes)));
            high[j] = Dot::weights(table(high_nibbles(bytes)));
          } else if constexpr (Bits == 6) {
            low[j] = Dot::weights(six_bit_codes(low_nibbles(bytes), upper_bits[j], 2 * row));
            high[j] = Dot::weights(six_bit_codes(high_nibbles(bytes), upper_bits[j], 2 * row + 1));
          } else {
            low[j] = Dot::weights(bytes);
          }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) {
          const std::int8_t* four = a + i * k + row * (Step / kRows);
#pragma GCC unroll 4
          for (int j = 0; j < Vectors; ++j) {
            sums[i][j] = Dot::add(sums[i][j], low[j], four);
            if constexpr (Bits != 8) sums[i][j] = Dot::add(sums[i][j], high[j], four + 4);
          }
        }
      }
      if constexpr (Bits == 6) codes += kNBitsRowBytes;
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        const Floats scale = scale_of(group, j);
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) totals[i][j] = added(totals[i][j], Dot::finish(sums[i][j]), scale * scales[i]);
      }
    }
    if (!has_bias) continue;
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      const Floats bias = params(j).bias;
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) totals[i][j] = added(totals[i][j], bias, broadcast(group_sums[i]));
    }
  }
  // Copied to memory first: with the stores on the accumulators themselves, GCC spills them in the loop above.
  Floats results[TileM * Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) results[i * Vectors + j] = totals[i][j];
  for (int i = 0; i < TileM; ++i)
    for (int j = 0; j < Vectors; ++j)
      store_columns(args.out + (token + i) * weight.n, weight.n, column + j * kLanes, results[i * Vectors + j]);
}

}  // namespace edgekiln::EDGEKILN_ISA
