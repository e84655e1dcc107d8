// Rows quantized to int8, each with a scale of its own, times an int8 weight with a scale a column.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/weight_arena.h"

namespace edgekiln {

// Panels of 16 columns: of four rows of depth at a time, which one instruction multiplies, the 16 columns' codes.
struct Int8Panels {
  static constexpr std::size_t kWidth = 16, kQuad = 4;
  static constexpr int kMiddle = 128;  // what the codes of rows are around
  // What may be read past the last panel: the depth is read in steps of so many bytes of a row.
  static constexpr std::size_t kStep = 64, kPadding = kStep * kWidth;

  // `codes` [depth, columns], `scales` [columns]. Throws std::bad_alloc.
  Int8Panels(const std::int8_t* codes, const float* scales, std::size_t depth, std::size_t columns);

  std::size_t depth, columns;
  LastingBytes memory;
  std::vector<std::int32_t> starts;  // [count * kWidth], -kMiddle * the sum of each column's codes
  std::vector<float> scales;         // [count * kWidth]

  std::size_t quads() const { return (depth + kQuad - 1) / kQuad; }
  std::size_t count() const { return (columns + kWidth - 1) / kWidth; }
  std::size_t panel_bytes() const { return quads() * kQuad * kWidth; }
  const std::uint8_t* panel(std::size_t index) const { return memory.get() + index * panel_bytes(); }
};

// out[rows, columns] = a[rows, depth] * w, where each row of a is rounded to 127 steps of its largest element.
using RowQuantizedKernel = void (*)(const Int8Panels&, const float* a, std::size_t rows, float* out, const Parallel&,
                                    Scratch&);

}  // namespace edgekiln
