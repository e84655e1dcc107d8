// A row of a table whose numbers have 4 or 8 bits in blocks of one scale, as numbers again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekiln {

struct QuantizedRow {
  std::size_t width, block;  // the last block may be shorter
  int bits;
  const std::uint8_t* codes;        // [width] or, of 4 bits, [width / 2], the lower ones first
  const float* scales;              // [blocks()]
  const std::uint8_t* zero_points;  // [zero_point_bytes()], packed as codes are; null for the middle

  std::size_t blocks() const { return (width + block - 1) / block; }
  std::size_t code_bytes() const { return bits == 4 ? width / 2 : width; }
  std::size_t zero_point_bytes() const { return bits == 4 ? (blocks() + 1) / 2 : blocks(); }
};

// out [width] = (code - zero point) * scale.
void dequantize(const QuantizedRow& row, float* out);

}  // namespace edgekiln
