// One row of a block-quantized table (com.microsoft::GatherBlockQuantized): dequantizes an embedding.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekiln {

struct BlockQuantizedRow {
  std::size_t width, block;         // values of the row and of a block, the last of which may be shorter
  int bits;                         // 4 or 8
  const std::uint8_t* codes;        // [width], or [width / 2] for 4 bits, low nibble first
  const float* scales;              // [blocks()]
  const std::uint8_t* zero_points;  // [zero_point_bytes()], packed as the codes; null for 2^(bits - 1)

  std::size_t blocks() const { return (width + block - 1) / block; }
  std::size_t code_bytes() const { return bits == 4 ? width / 2 : width; }
  std::size_t zero_point_bytes() const { return bits == 4 ? (blocks() + 1) / 2 : blocks(); }
};

// out[width] = (code - zero point) * scale.
void dequantize_row(const BlockQuantizedRow& row, float* out);

using DequantizeRowKernel = decltype(&dequantize_row);

}  // namespace edgekiln
