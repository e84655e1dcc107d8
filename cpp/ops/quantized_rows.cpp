#include "quantized_rows.h"

#include <algorithm>

namespace edgekiln {
namespace {

int nibble(const std::uint8_t* packed, std::size_t i) { return packed[i / 2] >> i % 2 * 4 & 15; }

}  // namespace

void QuantizedRows::read(std::size_t row, float* out) const {
  const std::uint8_t* from = codes + row * row_bytes();
  const std::uint8_t* zeros = zero_points ? zero_points + row * zero_point_bytes() : nullptr;
  for (std::size_t at = 0; at < blocks(); ++at) {
    const float scale = scales[row * blocks() + at];
    const std::size_t first = at * block, end = std::min(first + block, width);
    const int zero = !zeros ? 1 << (bits - 1) : bits == 4 ? nibble(zeros, at) : zeros[at];
    if (bits == 4) {
      for (std::size_t i = first; i < end; ++i) out[i] = static_cast<float>(nibble(from, i) - zero) * scale;
    } else {
      for (std::size_t i = first; i < end; ++i) out[i] = static_cast<float>(from[i] - zero) * scale;
    }
  }
}

}  // namespace edgekiln
