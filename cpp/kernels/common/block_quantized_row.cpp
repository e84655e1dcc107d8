#include "kernels/common/block_quantized_row.h"

#include <algorithm>

#include "kernels/matmul_nbits.h"

namespace edgekiln {

void dequantize_row(const BlockQuantizedRow& row, float* out) {
  for (std::size_t at = 0; at < row.blocks(); ++at) {
    const std::size_t first = at * row.block, end = std::min(first + row.block, row.width);
    const int zero = row.zero_points ? zero_point_of(row.zero_points, row.bits, at) : 1 << (row.bits - 1);
    if (row.bits == 4) {
      for (std::size_t i = first; i < end; ++i)
        out[i] = static_cast<float>((row.codes[i / 2] >> i % 2 * 4 & 15) - zero) * row.scales[at];
    } else {
      for (std::size_t i = first; i < end; ++i) out[i] = static_cast<float>(row.codes[i] - zero) * row.scales[at];
    }
  }
}

}  // namespace edgekiln
