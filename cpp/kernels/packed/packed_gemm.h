// Shared by the GEMMs and GEMVs of packed weights: vectors of a panel, and the size of tasks.
//
// A row of a panel, 16 columns of 4 bytes, is one or more vectors of kLanes columns. Tiles count their columns in
// vectors, and begin at a column that is a multiple of kLanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/pack/packed_nbits.h"
#include "kernels/packed/int8_dot.h"

namespace edgekiln::EDGEKILN_ISA {

static_assert(kPanelWidth % kLanes == 0);
inline constexpr int kPanelVectors = static_cast<int>(kPanelWidth) / kLanes;
inline constexpr std::size_t kNBitsRowBytes = kPanelWidth * sizeof(std::int32_t);

// A GEMV task reads about so many bytes of weights.
inline constexpr std::size_t kTaskBytes = 32 << 10;

inline std::size_t ceil_div(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// Panels of a GEMV task: an even number of equal tasks, so that two threads finish together.
inline std::size_t panels_per_task(std::size_t panels, std::size_t panel_bytes) {
  return ceil_div(panels, 2 * ceil_div(panels * panel_bytes, 2 * kTaskBytes));
}

// Where vector `index` of a tile lies in the rows of its panels, in bytes from the tile's first panel on.
inline std::size_t vector_offset(std::size_t column, int index, std::size_t panel_bytes) {
  const std::size_t vector = column % kPanelWidth / kLanes + index;
  return vector / kPanelVectors * panel_bytes + vector % kPanelVectors * sizeof(Bytes);
}

// out[n] of one token, from `column` on: kLanes results, or as many as there are columns.
inline void store_columns(float* out, std::size_t n, std::size_t column, Floats results) {
  if (n >= column + kLanes) return store(out + column, results);
  // The address of a copy: with that of `results`, all of them would pass through the stack.
  const Floats last = results;
  if (n > column) std::memcpy(out + column, &last, (n - column) * sizeof(float));
}

}  // namespace edgekiln::EDGEKILN_ISA
