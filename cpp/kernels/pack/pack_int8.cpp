// Packs int8 weights into panels, once, when a session is created.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>

#include "kernels/pack/pack_place.h"
#include "kernels/pack/packed_int8.h"

namespace edgekiln {

namespace {

constexpr std::size_t kPanelWidth = PackedInt8::kPanelWidth;

// to[kPanelWidth, RowK] = codes[RowK, kPanelWidth] transposed.
template <std::size_t RowK>
void interleave(const std::int8_t (&codes)[RowK][kPanelWidth], std::uint8_t* to) {
  for (std::size_t column = 0; column < kPanelWidth; ++column)
    for (std::size_t k = 0; k < RowK; ++k) to[column * RowK + k] = static_cast<std::uint8_t>(codes[k][column]);
}

#if defined(__SSE2__)
template <>
void interleave(const std::int8_t (&codes)[PackedInt8::kDotK][kPanelWidth], std::uint8_t* to) {
  const auto load = [&](std::size_t k) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes[k])); };
  const auto store = [&](std::size_t i, __m128i x) { _mm_store_si128(reinterpret_cast<__m128i*>(to) + i, x); };
  const __m128i first[2] = {_mm_unpacklo_epi8(load(0), load(1)), _mm_unpackhi_epi8(load(0), load(1))};
  const __m128i second[2] = {_mm_unpacklo_epi8(load(2), load(3)), _mm_unpackhi_epi8(load(2), load(3))};
  for (std::size_t half = 0; half < 2; ++half) {
    store(2 * half, _mm_unpacklo_epi16(first[half], second[half]));
    store(2 * half + 1, _mm_unpackhi_epi16(first[half], second[half]));
  }
}
#endif

// The panels of a weight [k, n], at `memory`, in rows of RowK values of k.
template <std::size_t RowK>
void pack_panels(const PackedInt8& weight, const std::int8_t* codes, std::uint8_t* memory) {
  for (std::size_t index = 0; index < weight.panels(); ++index) {
    std::uint8_t* to = memory + index * weight.panel_bytes();
    const std::size_t first = index * kPanelWidth, width = std::min(kPanelWidth, weight.n - first);
    for (std::size_t k = 0; k < weight.k; k += RowK, to += RowK * kPanelWidth) {
      std::int8_t rows[RowK][kPanelWidth] = {};
      for (std::size_t i = 0; i < std::min(RowK, weight.k - k); ++i)
        std::memcpy(rows[i], codes + (k + i) * weight.n + first, width);
      interleave(rows, to);
    }
  }
}

}  // namespace

PackedInt8::PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order)
    : PackedInt8(codes, scales, k, n, order, PackPlace{}) {}

PackedInt8::PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order,
                       const PackPlace& place)
    : k(k), n(n), order(order) {
  const std::size_t columns = panels() * kPanelWidth, codes_size = panels() * panel_bytes() + kPadding;
  const std::size_t scales_at = codes_size + columns * sizeof(std::int32_t);
  memory = place.find_or_pack(scales_at + columns * sizeof(float), 0, [&](std::uint8_t* to) {
    const auto pack = order == Int8Order::kFours ? pack_panels<kDotK> : pack_panels<kSmmlaK>;
    pack(*this, codes, to);
    std::memset(to + codes_size - kPadding, 0, kPadding + columns * (sizeof(std::int32_t) + sizeof(float)));
    auto* const sums = reinterpret_cast<std::int32_t*>(to + codes_size);
    for (std::size_t row = 0; row < k; ++row)
      for (std::size_t column = 0; column < n; ++column) sums[column] -= kActivationZeroPoint * codes[row * n + column];
    std::memcpy(to + scales_at, scales, n * sizeof(float));
  });
  compensation = {reinterpret_cast<const std::int32_t*>(memory.get() + codes_size), columns};
  this->scales = {reinterpret_cast<const float*>(memory.get() + scales_at), columns};
}

}  // namespace edgekiln
