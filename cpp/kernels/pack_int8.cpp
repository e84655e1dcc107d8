// Brings int8 weights into panels, once, when a session is made.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>

#include "kernels/per_token_int8.h"

namespace edgekiln {

namespace {

constexpr std::size_t kQuad = Int8Panels::kQuad, kWidth = Int8Panels::kWidth;

// to[kWidth, kQuad] = rows [kQuad, kWidth] transposed.
#if defined(__SSE2__)
void interleave(const std::int8_t (&rows)[kQuad][kWidth], std::uint8_t* to) {
  const auto row = [&](std::size_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i])); };
  const auto put = [&](std::size_t i, __m128i four) { _mm_store_si128(reinterpret_cast<__m128i*>(to) + i, four); };
  const __m128i first[2] = {_mm_unpacklo_epi8(row(0), row(1)), _mm_unpackhi_epi8(row(0), row(1))};
  const __m128i second[2] = {_mm_unpacklo_epi8(row(2), row(3)), _mm_unpackhi_epi8(row(2), row(3))};
  for (std::size_t half = 0; half < 2; ++half) {
    put(2 * half, _mm_unpacklo_epi16(first[half], second[half]));
    put(2 * half + 1, _mm_unpackhi_epi16(first[half], second[half]));
  }
}
#else
void interleave(const std::int8_t (&rows)[kQuad][kWidth], std::uint8_t* to) {
  for (std::size_t column = 0; column < kWidth; ++column)
    for (std::size_t row = 0; row < kQuad; ++row)
      to[column * kQuad + row] = static_cast<std::uint8_t>(rows[row][column]);
}
#endif

}  // namespace

Int8Panels::Int8Panels(const std::int8_t* codes, const float* scales, std::size_t depth, std::size_t columns)
    : depth(depth),
      columns(columns),
      memory(lasting_bytes(count() * panel_bytes() + kPadding)),
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
      interleave(rows, panel);
    }
  }
}

}  // namespace edgekiln
