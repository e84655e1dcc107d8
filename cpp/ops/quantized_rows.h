// Rows of a matrix whose numbers have 4 or 8 bits in blocks of one scale, as numbers again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekiln {

struct QuantizedRows {
  std::size_t rows, width, block;  // the last block of a row may be shorter
  int bits;
  const std::uint8_t* codes;        // [rows, width] or, of 4 bits, [rows, width / 2], the lower ones first
  const float* scales;              // [rows, blocks()]
  const std::uint8_t* zero_points;  // [rows, zero_point_bytes()], packed as codes are; null for the middle

  std::size_t blocks() const { return (width + block - 1) / block; }
  std::size_t row_bytes() const { return bits == 4 ? width / 2 : width; }
  std::size_t zero_point_bytes() const { return bits == 4 ? (blocks() + 1) / 2 : blocks(); }

  // out[i] = (code - zero point) * scale, for the width of `row`.
  void read(std::size_t row, float* out) const;
};

}  // namespace edgekiln
