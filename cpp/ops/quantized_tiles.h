// Rows rounded to int8 times an int8 weight, in tiles.
#pragma once

#include "panel_parts.h"
#include "quantized_product.h"
#include "tiles.h"

#if defined(EDGEKILN_TILES)

namespace edgekiln::EDGEKILN_ISA {

static_assert(Int8Panels::kStep == tiles::kBytes);

inline constexpr std::size_t kTiledRows = 2 * tiles::kRows;  // that are multiplied at once

// Rows [row, row + rows) of a panel, from results[rows, 2 * kLanes] on.
inline void finish_panel(const QuantizedProduct& product, std::size_t row, std::size_t rows, std::size_t panel,
                         const std::int32_t* results) {
  const Int8Panels& panels = product.panels;
  const std::size_t column = panel * kLanes, width = std::min<std::size_t>(kLanes, panels.columns - column);
  const auto mask = static_cast<__mmask16>((1u << width) - 1);
  const bool whole = width == kLanes;
  const __m512i start = _mm512_loadu_si512(panels.starts.data() + column);
  const __m512 scale = _mm512_loadu_ps(panels.scales.data() + column);
  const float* of_row = product.scales + row;
  float* out = product.out + row * panels.columns + column;
  for (std::size_t i = 0; i < rows; ++i, results += 2 * kLanes, out += panels.columns) {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(results), start));
    const __m512 result = _mm512_mul_ps(sum, _mm512_mul_ps(scale, _mm512_set1_ps(of_row[i])));
    whole ? _mm512_storeu_ps(out, result) : _mm512_mask_storeu_ps(out, mask, result);
  }
}

// Rows [first, last) times panels [panel, panel + count).
inline void multiply_tiles(const QuantizedProduct& product, std::size_t first, std::size_t last, std::size_t panel,
                           std::size_t count) {
  const tiles::Configured configured;
  const std::size_t steps = divided(product.panels.depth, tiles::kBytes), panel_bytes = product.panels.panel_bytes();
  const tiles::Layout codes{product.stride, tiles::kBytes, tiles::kRows * product.stride};
  const tiles::Layout weights{tiles::kBytes, tiles::kTile, panel_bytes};
  const tiles::Layout sums{2 * tiles::kBytes, tiles::kBytes, 2 * tiles::kTile};
  alignas(tiles::kBytes) std::int32_t results[kTiledRows][2 * kLanes];
  for (std::size_t j = 0; j < count; j += 2) {
    const std::size_t width = std::min<std::size_t>(2, count - j);
    for (std::size_t row = first; row < last; row += kTiledRows) {
      const std::size_t rows = std::min(kTiledRows, last - row);
      tiles::product<tiles::Numbers::kUnsignedAndSigned>(
          divided(rows, tiles::kRows), width, product.codes + row * product.stride, codes,
          product.panels.panel(panel + j), weights, steps, results, sums, false);
      for (std::size_t k = 0; k < width; ++k) finish_panel(product, row, rows, panel + j + k, results[0] + k * kLanes);
    }
  }
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
