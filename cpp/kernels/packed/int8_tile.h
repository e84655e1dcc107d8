// Register tiles of the per-token int8 GEMM: TileM tokens times Vectors vectors of columns.
#pragma once

#include "kernels/packed/per_token_int8.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

inline constexpr std::size_t kRowBytes = PackedInt8::kDotK * kPanelWidth;  // of a panel

// One token times one panel, in four accumulators or more, so that no dot product waits for the one before.
template <typename Dot>
void int8_gemv(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  constexpr std::size_t kFour = PackedInt8::kDotK * Dot::kCodeBytes;
  constexpr int kChains = kPanelVectors < 4 ? 4 / kPanelVectors : 1;
  const std::uint8_t* codes = args.codes + token * args.stride;
  const std::uint8_t* from = args.weight.panel(panel);
  Ints sums[kChains][kPanelVectors] = {};
  const auto add_row = [&](Ints(&sums)[kPanelVectors], const std::uint8_t* four, const std::uint8_t* row) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j)
      for (int part = 0; part < Dot::kParts; ++part)
        sums[j] = Dot::dot(sums[j], Dot::weights(load_bytes(row + j * sizeof(Bytes)), part),
                           four + part * sizeof(std::int32_t));
  };
  const std::size_t steps = args.weight.steps();
  std::size_t step = 0;
  for (; step + 4 <= steps; step += 4, codes += 4 * kFour, from += 4 * kRowBytes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) prefetch_ahead(from + i * kRowBytes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) add_row(sums[i % kChains], codes + i * kFour, from + i * kRowBytes);
  }
  for (; step < steps; ++step, codes += kFour, from += kRowBytes) add_row(sums[0], codes, from);
#pragma GCC unroll 4
  for (int j = 0; j < kPanelVectors; ++j) {
    for (int i = 1; i < kChains; ++i) sums[0][j] += sums[i][j];
    Epilogue(args, panel * kPanelWidth + j * kLanes).store<Dot>(token, sums[0][j]);
  }
}

// Tokens [token, token + TileM) times columns [column, column + Vectors * kLanes). Of several panels also fetches the
// next ones, if `prefetch`, into the L2 cache.
template <typename Dot, int TileM, int Vectors>
void int8_tile(const Int8GemmArgs& args, std::size_t token, std::size_t column, bool prefetch) {
  constexpr std::size_t kFour = PackedInt8::kDotK * Dot::kCodeBytes;
  Ints sums[TileM][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sums[i][j] = Ints{};
  const std::uint8_t* codes = args.codes + token * args.stride;
  const std::uint8_t* from = args.weight.panel(column / kPanelWidth);
  const std::size_t stride = args.stride, panel_bytes = args.weight.panel_bytes();
  const std::size_t steps = args.weight.steps();
  for (std::size_t step = 0; step < steps; ++step, codes += kFour, from += kRowBytes) {
    if constexpr (Vectors <= kPanelVectors) {
      prefetch_ahead(from);
    } else if (kPrefetchesPanels && prefetch) {
      constexpr int kPanels = Vectors / kPanelVectors;
      for (int i = kPanels; i < 2 * kPanels; ++i) __builtin_prefetch(from + i * panel_bytes, 0, 2);
    }
#pragma GCC unroll 2
    for (int part = 0; part < Dot::kParts; ++part) {
      typename Dot::Weights weights[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
        weights[j] = Dot::weights(load_bytes(from + vector_offset(column, j, panel_bytes)), part);
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j)
          sums[i][j] = Dot::dot(sums[i][j], weights[j], codes + i * stride + part * sizeof(std::int32_t));
    }
  }
  // Copied to memory first: with the epilogue on the accumulators themselves, GCC spills them in the loop above.
  Ints results[TileM * Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) results[i * Vectors + j] = sums[i][j];
  for (int i = 0; i < TileM * Vectors; ++i)
    Epilogue(args, column + i % Vectors * kLanes).template store<Dot>(token + i / Vectors, results[i]);
}

// Up to TileM tokens, `left` of which there are.
template <typename Dot, int Vectors, int TileM>
void int8_tile_of(const Int8GemmArgs& args, std::size_t token, std::size_t left, std::size_t column, bool prefetch) {
  if constexpr (TileM == 1 && Vectors == kPanelVectors) {
    int8_gemv<Dot>(args, token, column / kPanelWidth);
  } else if (left >= TileM) {
    int8_tile<Dot, TileM, Vectors>(args, token, column, prefetch);
  } else if constexpr (TileM > 1) {
    int8_tile_of<Dot, Vectors, TileM - 1>(args, token, left, column, prefetch);
  }
}

}  // namespace detail

// Tokens [first, last) times columns [column, column + Vectors * kLanes), at most TileM tokens a tile.
template <typename Dot, int Vectors, int TileM>
void int8_tiles(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t column) {
  for (std::size_t token = first; token < last; token += TileM)
    detail::int8_tile_of<Dot, Vectors, TileM>(args, token, last - token, column, token == first);
}

}  // namespace edgekiln::EDGEKILN_ISA
