// Register tiles of the per-token int8 GEMM: TileM tokens times TilePanels panels of 16 columns. For AVX512-VNNI.
#pragma once

#include "kernels/avx512/packed_gemm.h"
#include "kernels/avx512/per_token_int8.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

// Lane j: sum += four activation codes . four weight codes of column j.
inline __m512i dot_4(__m512i sum, const std::uint8_t* codes, __m512i weights) {
  return _mm512_dpbusd_epi32(sum, broadcast_4(codes), weights);
}

// One token times one panel, in four accumulators, so that no dot product waits for the one before.
inline void int8_gemv(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  constexpr std::size_t kDotK = PackedInt8::kDotK;
  const std::uint8_t* codes = args.codes + token * args.stride;
  const std::uint8_t* weights = args.weight.panel(panel);
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  const std::size_t steps = args.weight.steps();
  std::size_t step = 0;
  for (; step + 4 <= steps; step += 4, codes += 4 * kDotK, weights += 4 * sizeof a) {
    for (std::size_t line = 0; line < 4; ++line) prefetch_ahead(weights + line * sizeof a);
    a = dot_4(a, codes, _mm512_load_si512(weights));
    b = dot_4(b, codes + kDotK, _mm512_load_si512(weights + sizeof a));
    c = dot_4(c, codes + 2 * kDotK, _mm512_load_si512(weights + 2 * sizeof a));
    d = dot_4(d, codes + 3 * kDotK, _mm512_load_si512(weights + 3 * sizeof a));
  }
  for (; step < steps; ++step, codes += kDotK, weights += sizeof a) a = dot_4(a, codes, _mm512_load_si512(weights));
  Epilogue(args, panel)(token, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
}

// Tokens [token, token + TileM) times panels [panel, panel + TilePanels).
template <int TileM, int TilePanels>
void int8_tile(const Int8GemmArgs& args, std::size_t token, std::size_t panel) {
  constexpr std::size_t kDotK = PackedInt8::kDotK;
  __m512i sums[TileM][TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_setzero_si512();
  const std::uint8_t* codes = args.codes + token * args.stride;
  const std::uint8_t* from = args.weight.panel(panel);
  const std::size_t stride = args.stride, panel_bytes = args.weight.panel_bytes();
  const std::size_t steps = args.weight.steps();
  for (std::size_t step = 0; step < steps; ++step, codes += kDotK, from += sizeof(__m512i)) {
    __m512i weights[TilePanels];
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) weights[j] = _mm512_load_si512(from + j * panel_bytes);
    if constexpr (TilePanels == 1) prefetch_ahead(from);
#pragma GCC unroll 8
    for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < TilePanels; ++j) sums[i][j] = dot_4(sums[i][j], codes + i * stride, weights[j]);
  }
  // Copied to memory first: with the epilogue on the accumulators themselves, GCC spills them in the loop above.
  __m512i results[TileM * TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) results[i * TilePanels + j] = sums[i][j];
  for (int i = 0; i < TileM * TilePanels; ++i)
    Epilogue(args, panel + i % TilePanels)(token + i / TilePanels, results[i]);
}

// Up to TileM tokens, `left` of which there are.
template <int TilePanels, int TileM = kTileM<TilePanels>>
void int8_tile_of(const Int8GemmArgs& args, std::size_t token, std::size_t left, std::size_t panel) {
  if constexpr (TileM == 1 && TilePanels == 1) {
    int8_gemv(args, token, panel);
  } else if (left >= TileM) {
    int8_tile<TileM, TilePanels>(args, token, panel);
  } else if constexpr (TileM > 1) {
    int8_tile_of<TilePanels, TileM - 1>(args, token, left, panel);
  }
}

}  // namespace detail

// Tokens [first, last) times panels [panel, panel + TilePanels).
template <int TilePanels>
void int8_tiles(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel) {
  for (std::size_t token = first; token < last; token += kTileM<TilePanels>)
    detail::int8_tile_of<TilePanels>(args, token, last - token, panel);
}

}  // namespace edgekiln::EDGEKILN_ISA
