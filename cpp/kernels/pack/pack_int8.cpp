// Packs int8 weights into panels, once, when a session is created.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <utility>

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

// The panels of a weight [k, n], at `to`, in rows of RowK values of k.
template <std::size_t RowK>
void pack_panels(const std::int8_t* codes, std::size_t weight_k, std::size_t n, std::uint8_t* to) {
  for (std::size_t first = 0; first < n; first += kPanelWidth) {
    const std::size_t width = std::min(kPanelWidth, n - first);
    for (std::size_t k = 0; k < weight_k; k += RowK, to += RowK * kPanelWidth) {
      std::int8_t rows[RowK][kPanelWidth] = {};
      for (std::size_t i = 0; i < std::min(RowK, weight_k - k); ++i)
        std::memcpy(rows[i], codes + (k + i) * n + first, width);
      interleave(rows, to);
    }
  }
}

// Offsets in the memory of a packed weight.
struct Layout {
  std::size_t columns, compensation, scales, size;

  Layout(std::size_t k, std::size_t n, Int8Order order) {
    const std::size_t row_k = order == Int8Order::kFours ? PackedInt8::kDotK : PackedInt8::kSmmlaK;
    columns = (n + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
    compensation = (k + row_k - 1) / row_k * row_k * columns + PackedInt8::kPadding;
    scales = compensation + columns * sizeof(std::int32_t);
    size = scales + columns * sizeof(float);
  }
};

}  // namespace

PackedInt8::PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order)
    : PackedInt8(codes, scales, k, n, order, PackPlace{}) {}

PackedInt8::PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order,
                       const PackPlace& place)
    : PackedInt8(k, n, order, place.find_or_pack(bytes(k, n, order), 0, [&](std::uint8_t* to) {
        write(codes, scales, k, n, order, to);
      })) {}

PackedInt8::PackedInt8(std::size_t k, std::size_t n, Int8Order order, ArenaBytes memory)
    : k(k), n(n), order(order), memory(std::move(memory)) {
  const Layout layout(k, n, order);
  const std::uint8_t* const begin = this->memory.get();
  compensation = {reinterpret_cast<const std::int32_t*>(begin + layout.compensation), layout.columns};
  scales = {reinterpret_cast<const float*>(begin + layout.scales), layout.columns};
}

std::size_t PackedInt8::bytes(std::size_t k, std::size_t n, Int8Order order) { return Layout(k, n, order).size; }

void PackedInt8::write(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order,
                       std::uint8_t* to) {
  const Layout layout(k, n, order);
  (order == Int8Order::kFours ? pack_panels<kDotK> : pack_panels<kSmmlaK>)(codes, k, n, to);
  std::memset(to + layout.compensation - kPadding, 0, layout.size - layout.compensation + kPadding);
  auto* const sums = reinterpret_cast<std::int32_t*>(to + layout.compensation);
  for (std::size_t row = 0; row < k; ++row)
    for (std::size_t column = 0; column < n; ++column) sums[column] -= kActivationZeroPoint * codes[row * n + column];
  std::memcpy(to + layout.scales, scales, n * sizeof(float));
}

}  // namespace edgekiln
