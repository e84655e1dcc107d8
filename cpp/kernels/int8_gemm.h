// Rows rounded to int8, each with a scale of its own, and what their products with an int8 weight become.
//
// The codes are made unsigned, around 128, as the instructions for products of bytes want them: each column's sum
// starts at -128 * the sum of its codes, so that the result is that of signed ones.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/per_token_int8.h"
#include "kernels/vector.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {

static_assert(kLanes == Int8Panels::kWidth);

struct QuantizedProduct {
  const Int8Panels& panels;
  const float* a;
  std::size_t rows;
  float* out;
  std::size_t stride;   // of codes, which are zero past the depth
  std::uint8_t* codes;  // [rows, stride]
  float* scales;        // [rows]
  std::size_t panels_a_task, rows_a_task;
};

inline void quantize_row(const QuantizedProduct& product, std::size_t row) {
  constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of a row of zeros finite
  constexpr std::size_t kFour = 4 * kLanes;
  const std::size_t depth = product.panels.depth, whole = depth / kLanes * kLanes, fours = depth / kFour * kFour;
  const float* a = product.a + row * depth;
  std::uint8_t* codes = product.codes + row * product.stride;
  const auto rest = static_cast<__mmask16>((1u << (depth - whole)) - 1);
  // Of four at a time, so that none waits for the one before.
  __m512 most[4] = {_mm512_abs_ps(_mm512_maskz_loadu_ps(rest, a + whole))};
  const auto at_least = [&](int i, const float* from) {
    most[i] = _mm512_max_ps(most[i], _mm512_abs_ps(_mm512_loadu_ps(from)));
  };
  for (std::size_t i = 0; i < fours; i += kFour)
    for (int j = 0; j < 4; ++j) at_least(j, a + i + j * kLanes);
  for (std::size_t i = fours; i < whole; i += kLanes) at_least(0, a + i);
  const __m512 both = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
  const float largest = std::max(_mm512_reduce_max_ps(both), kSmallestMaximum);
  const __m512 inverse = _mm512_set1_ps(127.0f / largest);
  const __m512i middle = _mm512_set1_epi32(Int8Panels::kMiddle);
  const auto words = [&](__m512 x) { return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), middle); };
  const auto loaded = [&](std::size_t i) { return words(_mm512_loadu_ps(a + i)); };
  // Where packing leaves the words of four vectors: in turns, of each quarter.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (std::size_t i = 0; i < fours; i += kFour) {
    const __m512i low = _mm512_packs_epi32(loaded(i), loaded(i + kLanes));
    const __m512i high = _mm512_packs_epi32(loaded(i + 2 * kLanes), loaded(i + 3 * kLanes));
    _mm512_storeu_si512(codes + i, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
  }
  for (std::size_t i = fours; i < whole; i += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(loaded(i)));
  if (rest)
    _mm_mask_storeu_epi8(codes + whole, rest, _mm512_cvtepi32_epi8(words(_mm512_maskz_loadu_ps(rest, a + whole))));
  std::memset(codes + depth, 0, product.stride - depth);
  product.scales[row] = largest / 127.0f;
}

// Scales a panel's sums of codes around the middle and writes them.
class Finish {
 public:
  Finish(const QuantizedProduct& product, std::size_t panel)
      : product_(product),
        column_(panel * kLanes),
        start_(_mm512_loadu_si512(product.panels.starts.data() + column_)),
        scale_(_mm512_loadu_ps(product.panels.scales.data() + column_)) {}

  void operator()(std::size_t row, __m512i sum) const {
    const std::size_t columns = product_.panels.columns, left = columns - column_;
    const __m512 of_row = _mm512_mul_ps(scale_, _mm512_set1_ps(product_.scales[row]));
    const __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, start_)), of_row);
    float* out = product_.out + row * columns + column_;
    if (left >= kLanes) {
      _mm512_storeu_ps(out, result);
    } else {
      _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << left) - 1), result);
    }
  }

 private:
  const QuantizedProduct& product_;
  std::size_t column_;
  __m512i start_;
  __m512 scale_;
};

}  // namespace edgekiln::EDGEKILN_ISA

#endif
