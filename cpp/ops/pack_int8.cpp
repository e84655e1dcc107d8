// Brings int8 weights into panels, once, when a session is made.
#include <algorithm>
#include <cstring>

#include "row_quantized.h"

namespace edgekiln {

Int8Panels::Int8Panels(const std::int8_t* codes, const float* scales, std::size_t depth, std::size_t columns)
    : depth(depth),
      columns(columns),
      memory(lasting_bytes(count() * panel_bytes())),
      starts(count() * kWidth),
      scales(count() * kWidth) {
  std::copy_n(scales, columns, this->scales.begin());
  for (std::size_t k = 0; k < depth; ++k)
    for (std::size_t column = 0; column < columns; ++column) starts[column] -= kMiddle * codes[k * columns + column];
  for (std::size_t index = 0; index < count(); ++index) {
    std::uint8_t* panel = memory.get() + index * panel_bytes();
    const std::size_t first = index * kWidth, width = std::min(kWidth, columns - first);
    for (std::size_t quad = 0; quad < quads(); ++quad, panel += kQuad * kWidth) {
      std::int8_t rows[kQuad][kWidth] = {};
      for (std::size_t row = 0; row < std::min(kQuad, depth - quad * kQuad); ++row)
        std::memcpy(rows[row], codes + (quad * kQuad + row) * columns + first, width);
      for (std::size_t column = 0; column < kWidth; ++column)
        for (std::size_t row = 0; row < kQuad; ++row)
          panel[column * kQuad + row] = static_cast<std::uint8_t>(rows[row][column]);
    }
  }
}

}  // namespace edgekiln
