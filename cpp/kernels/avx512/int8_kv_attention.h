// Attention over a cache of int8 without making floats of it: products of bytes, the other side of which, queries and
// weights, are taken in two digits of 8 bits each, which leaves them 15 bits or more.
#pragma once

#include <algorithm>

#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kCodes = 64;       // of int8 in a vector
inline constexpr std::size_t kMostCodes = 256;  // of a head

// A query head as scale * (256 * high + low).
struct CodedQuery {
  float scale;
  std::int32_t high_sum, low_sum;  // of the digits
};

// digits [2, dim], high and low ones, of a query; `dim` is a multiple of kCodes, at most kMostCodes.
inline CodedQuery code_query(const float* query, std::size_t dim, std::int8_t* digits) {
  __m512 most = _mm512_setzero_ps();
  for (std::size_t i = 0; i < dim; i += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(query + i)));
  const float largest = _mm512_reduce_max_ps(most);
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  __m512i high_sum = _mm512_setzero_si512(), low_sum = high_sum;
  for (std::size_t i = 0; i < dim; i += kLanes) {
    const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(query + i), inverse);
    const __m512i high = _mm512_cvtps_epi32(x);
    const __m512 rest = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_cvtepi32_ps(high)), _mm512_set1_ps(256.0f));
    const __m512i low = _mm512_min_epi32(_mm512_cvtps_epi32(rest), _mm512_set1_epi32(127));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(digits + i), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(digits + dim + i), _mm512_cvtepi32_epi8(low));
    high_sum = _mm512_add_epi32(high_sum, high);
    low_sum = _mm512_add_epi32(low_sum, low);
  }
  return {largest / (127.0f * 256.0f), _mm512_reduce_add_epi32(high_sum), _mm512_reduce_add_epi32(low_sum)};
}

namespace detail {

inline __m512i word_of(const std::int8_t* four) {
  int word;
  std::memcpy(&word, four, sizeof word);
  return _mm512_set1_epi32(word);
}

// Scores of Heads queries and 16 keys, whose words of four codes lie in `words` [dim / 4, 16].
template <int Heads>
inline void score_coded(const CodedQuery* queries, const std::int8_t* digits, const float* words, std::size_t dim,
                        float* scores, std::size_t stride) {
  __m512i high[Heads], low[Heads];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) high[head] = low[head] = _mm512_setzero_si512();
  for (std::size_t at = 0; at < dim; at += 4, words += kLanes) {
    // Codes around 128, as the instruction wants one side unsigned.
    const __m512i keys = _mm512_xor_si512(_mm512_loadu_si512(words), _mm512_set1_epi8(-128));
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const std::int8_t* of_head = digits + 2 * head * dim + at;
      high[head] = _mm512_dpbusd_epi32(high[head], keys, word_of(of_head));
      low[head] = _mm512_dpbusd_epi32(low[head], keys, word_of(of_head + dim));
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    const auto number = [](__m512i sum, std::int32_t digits_sum) {
      return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(128 * digits_sum)));
    };
    const __m512 sum = _mm512_fmadd_ps(number(high[head], queries[head].high_sum), _mm512_set1_ps(256.0f),
                                       number(low[head], queries[head].low_sum));
    _mm512_storeu_ps(scores + head * stride, _mm512_mul_ps(sum, _mm512_set1_ps(queries[head].scale)));
  }
}

template <int Heads = 4>
inline void score_coded_heads(std::size_t heads, const CodedQuery* queries, const std::int8_t* digits,
                              const float* words, std::size_t dim, float* scores, std::size_t stride) {
  if (heads >= Heads) {
    score_coded<Heads>(queries, digits, words, dim, scores, stride);
  } else if constexpr (Heads > 1) {
    score_coded_heads<Heads - 1>(heads, queries, digits, words, dim, scores, stride);
  }
}

// sum [Heads, kCodes], rows `stride` apart, of weights as digits [Heads, 2, kCodes keys] times values [keys, dim].
template <int Heads>
inline void sum_coded(const std::uint8_t* digits, const std::int8_t* values, std::size_t keys, std::size_t dim,
                      float* sum, std::size_t stride) {
  __m512i high[Heads][4], low[Heads][4];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) high[head][i] = low[head][i] = _mm512_setzero_si512();
  for (std::size_t key = 0; key < keys; key += 4) {
    // A weight of zero meets the last value, which stands in for those after it.
    const auto row = [&](std::size_t i) { return _mm512_loadu_si512(values + std::min(key + i, keys - 1) * dim); };
    const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
    const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
    const __m512i cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
    const __m512i four[4] = {_mm512_unpacklo_epi16(ab[0], cd[0]), _mm512_unpackhi_epi16(ab[0], cd[0]),
                             _mm512_unpacklo_epi16(ab[1], cd[1]), _mm512_unpackhi_epi16(ab[1], cd[1])};
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const auto* of_head = reinterpret_cast<const std::int8_t*>(digits) + 2 * head * kCodes + key;
      const __m512i high_digits = word_of(of_head), low_digits = word_of(of_head + kCodes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        high[head][i] = _mm512_dpbusd_epi32(high[head][i], high_digits, four[i]);
        low[head][i] = _mm512_dpbusd_epi32(low[head][i], low_digits, four[i]);
      }
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 numbers = _mm512_mul_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(low[head][i]), _mm512_set1_ps(1.0f / 255),
                                                           _mm512_cvtepi32_ps(high[head][i])),
                                           _mm512_set1_ps(1.0f / 255));
      // Unpacking left the columns of each four rows in four places.
      float* to = sum + head * stride + 4 * i;
      _mm_storeu_ps(to, _mm512_extractf32x4_ps(numbers, 0));
      _mm_storeu_ps(to + 16, _mm512_extractf32x4_ps(numbers, 1));
      _mm_storeu_ps(to + 32, _mm512_extractf32x4_ps(numbers, 2));
      _mm_storeu_ps(to + 48, _mm512_extractf32x4_ps(numbers, 3));
    }
}

template <int Heads = 3>
inline void sum_coded_heads(std::size_t heads, const std::uint8_t* digits, const std::int8_t* values, std::size_t keys,
                            std::size_t dim, float* sum, std::size_t stride) {
  if (heads >= Heads) {
    sum_coded<Heads>(digits, values, keys, dim, sum, stride);
  } else if constexpr (Heads > 1) {
    sum_coded_heads<Heads - 1>(heads, digits, values, keys, dim, sum, stride);
  }
}

}  // namespace detail

// scores [group, keys], rows `stride` apart, of queries with digits [group, 2, dim] and keys [keys, dim]; up to a whole
// vector after each row is overwritten.
inline void score_coded_keys(const CodedQuery* queries, const std::int8_t* digits, std::size_t group,
                             const std::int8_t* key, std::size_t keys, std::size_t dim, float* scores,
                             std::size_t stride) {
  alignas(64) float words[kMostCodes / 4 * kLanes];
  for (std::size_t first = 0; first < keys; first += kLanes) {
    const std::size_t count = std::min<std::size_t>(kLanes, keys - first), row_words = dim / 4;
    alignas(64) float copy[kMostCodes / 4 * kLanes];
    const float* rows = reinterpret_cast<const float*>(key + first * dim);
    if (count < kLanes) {
      std::memcpy(copy, rows, count * dim);
      std::memset(reinterpret_cast<std::int8_t*>(copy) + count * dim, 0, (kLanes - count) * dim);
      rows = copy;
    }
    for (std::size_t at = 0; at < row_words; at += kLanes)
      detail::transpose_square(rows + at, row_words, words + at * kLanes, kLanes,
                               std::make_integer_sequence<int, kLanes>{});
    for (std::size_t head = 0; head < group; head += 4)
      detail::score_coded_heads(group - head, queries + head, digits + 2 * head * dim, words, dim,
                                scores + head * stride + first, stride);
  }
}

// sum [group, dim], rows `stride` apart, of scores [group, keys] in [0, 1], rows `score_stride` apart, times values
// [keys, dim]; at most kCodes keys.
inline void sum_coded_values(const float* scores, std::size_t score_stride, std::size_t group, const std::int8_t* value,
                             std::size_t keys, std::size_t dim, float* sum, std::size_t stride) {
  for (std::size_t head = 0; head < group; head += 3) {
    const std::size_t heads = std::min<std::size_t>(3, group - head);
    alignas(64) std::uint8_t digits[3 * 2 * kCodes];
    for (std::size_t i = 0; i < heads; ++i) {
      for (std::size_t k = 0; k < kCodes; k += kLanes) {
        const auto there = static_cast<__mmask16>(k >= keys ? 0 : keys - k >= 16 ? 0xffff : (1u << (keys - k)) - 1);
        const __m512 x =
            _mm512_mul_ps(_mm512_maskz_loadu_ps(there, scores + (head + i) * score_stride + k), _mm512_set1_ps(255.0f));
        const __m512i high = _mm512_cvttps_epi32(x);
        const __m512 rest = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_cvtepi32_ps(high)), _mm512_set1_ps(255.0f));
        std::uint8_t* to = digits + 2 * i * kCodes + k;
        _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(high));
        _mm_store_si128(reinterpret_cast<__m128i*>(to + kCodes), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(rest)));
      }
    }
    for (std::size_t at = 0; at < dim; at += kCodes)
      detail::sum_coded_heads(heads, digits, value + at, keys, dim, sum + head * stride + at, stride);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
