// Rows rounded to int8 times an int8 weight, in tiles.
#pragma once

#include "kernels/amx.h"
#include "kernels/int8_gemm.h"
#include "kernels/panel_parts.h"

#if defined(EDGEKILN_TILES)

namespace edgekiln::EDGEKILN_ISA {

static_assert(Int8Panels::kStep == tiles::kBytes);

inline constexpr std::size_t kTiledRows = 2 * tiles::kRows;  // that are multiplied at once

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
      tiles::product<tiles::Numbers::kBytes>(divided(rows, tiles::kRows), width, product.codes + row * product.stride,
                                             codes, product.panels.panel(panel + j), weights, steps, results, sums,
                                             false);
      for (std::size_t k = 0; k < width; ++k) {
        const Finish finish(product, panel + j + k);
        for (std::size_t i = 0; i < rows; ++i) finish(row + i, _mm512_load_si512(results[i] + k * kLanes));
      }
    }
  }
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
