#include "quantized_row.h"

#include <algorithm>

namespace edgekiln {
namespace {

int nibble(const std::uint8_t* packed, std::size_t i) { return packed[i / 2] >> i % 2 * 4 & 15; }

}  // namespace

void dequantize(const QuantizedRow& row, float* out) {
  for (std::size_t at = 0; at < row.blocks(); ++at) {
    const std::size_t first = at * row.block, end = std::min(first + row.block, row.width);
    const std::uint8_t* zeros = row.zero_points;
    const int zero = !zeros ? 1 << (row.bits - 1) : row.bits == 4 ? nibble(zeros, at) : zeros[at];
    if (row.bits == 4) {
      for (std::size_t i = first; i < end; ++i)
        out[i] = static_cast<float>(nibble(row.codes, i) - zero) * row.scales[at];
    } else {
      for (std::size_t i = first; i < end; ++i) out[i] = static_cast<float>(row.codes[i] - zero) * row.scales[at];
    }
  }
}

}  // namespace edgekiln
