// Decode attention over an int8 KV cache in integer arithmetic, without dequantizing keys or values.
//
// VPDPBUSD multiplies int8 by uint8. The other operand, a query or the softmax weights, is split into two 8-bit parts,
// x = scale * (radix * high + low), which keeps 15 bits of it or more. For AVX512-VNNI.
#pragma once

#include <algorithm>

#include "kernels/vector/attention_products.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kKvStep = 64;  // bytes of a vector

// What one query head's parts have in common: query = scale * (256 * high + low).
struct QuantizedQuery {
  float scale;
  std::int32_t sum;  // of 256 * high + low over head_dim
};

// Quantizes query[dim] to parts [2, dim], high and low.
inline QuantizedQuery quantize_query(const float* query, std::size_t dim, std::int8_t* parts) {
  __m512 most = _mm512_setzero_ps();
  for (std::size_t i = 0; i < dim; i += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(query + i)));
  const float largest = _mm512_reduce_max_ps(most);
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  __m512i sum = _mm512_setzero_si512();
  for (std::size_t i = 0; i < dim; i += kLanes) {
    const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(query + i), inverse);
    const __m512i high = _mm512_cvtps_epi32(x);
    const __m512 rest = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_cvtepi32_ps(high)), _mm512_set1_ps(256.0f));
    const __m512i low = _mm512_min_epi32(_mm512_cvtps_epi32(rest), _mm512_set1_epi32(127));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(parts + i), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(parts + dim + i), _mm512_cvtepi32_epi8(low));
    sum = _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
  }
  return {largest / (127.0f * 256.0f), _mm512_reduce_add_epi32(sum)};
}

namespace detail {

inline __m512i word_of(const std::int8_t* four) {
  int word;
  std::memcpy(&word, four, sizeof word);
  return _mm512_set1_epi32(word);
}

// Scores of Heads queries and 16 keys, given as `words` [dim / 4, 16] of four codes each.
template <int Heads>
inline void int8_score_tile(const QuantizedQuery* queries, const std::int8_t* parts, const float* words,
                            std::size_t dim, float* scores, std::size_t stride) {
  __m512i high[Heads], low[Heads];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) high[head] = low[head] = _mm512_setzero_si512();
  for (std::size_t at = 0; at < dim; at += 4, words += kLanes) {
    // code + 128 is unsigned; 128 times the sum of the query is subtracted below.
    const __m512i keys = _mm512_xor_si512(_mm512_loadu_si512(words), _mm512_set1_epi8(-128));
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const std::int8_t* of_head = parts + 2 * head * dim + at;
      high[head] = _mm512_dpbusd_epi32(high[head], keys, word_of(of_head));
      low[head] = _mm512_dpbusd_epi32(low[head], keys, word_of(of_head + dim));
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[head], 8), low[head]);
    const __m512i total = _mm512_sub_epi32(sum, _mm512_set1_epi32(128 * queries[head].sum));
    _mm512_storeu_ps(scores + head * stride,
                     _mm512_mul_ps(_mm512_cvtepi32_ps(total), _mm512_set1_ps(queries[head].scale)));
  }
}

template <int Heads = 4>
inline void int8_score_heads(std::size_t heads, const QuantizedQuery* queries, const std::int8_t* parts,
                             const float* words, std::size_t dim, float* scores, std::size_t stride) {
  if (heads >= Heads) {
    int8_score_tile<Heads>(queries, parts, words, dim, scores, stride);
  } else if constexpr (Heads > 1) {
    int8_score_heads<Heads - 1>(heads, queries, parts, words, dim, scores, stride);
  }
}

// sum [Heads, columns], rows `stride` apart, of weights in parts [Heads, 2, kKvStep keys] times the first `columns`
// columns of values [keys, dim]: kKvStep if Whole, else fewer.
template <int Heads, bool Whole>
inline void int8_sum_tile(const std::uint8_t* parts, const std::int8_t* values, std::size_t keys, std::size_t dim,
                          std::size_t columns, float* sum, std::size_t stride) {
  __m512i high[Heads][4], low[Heads][4];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) high[head][i] = low[head][i] = _mm512_setzero_si512();
  for (std::size_t key = 0; key < keys; key += 4) {
    // Keys past the end have weight 0; the last key's value is loaded in their place.
    const auto row = [&](std::size_t i) {
      const std::int8_t* from = values + std::min(key + i, keys - 1) * dim;
      return Whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi8((__mmask64{1} << columns) - 1, from);
    };
    const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
    const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
    const __m512i cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
    const __m512i four[4] = {_mm512_unpacklo_epi16(ab[0], cd[0]), _mm512_unpackhi_epi16(ab[0], cd[0]),
                             _mm512_unpacklo_epi16(ab[1], cd[1]), _mm512_unpackhi_epi16(ab[1], cd[1])};
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const auto* of_head = reinterpret_cast<const std::int8_t*>(parts) + 2 * head * kKvStep + key;
      const __m512i high_parts = word_of(of_head), low_parts = word_of(of_head + kKvStep);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        high[head][i] = _mm512_dpbusd_epi32(high[head][i], high_parts, four[i]);
        low[head][i] = _mm512_dpbusd_epi32(low[head][i], low_parts, four[i]);
      }
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i high_sums = _mm512_sub_epi32(_mm512_slli_epi32(high[head][i], 8), high[head][i]);  // times 255
      const __m512 sums =
          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(high_sums, low[head][i])), _mm512_set1_ps(kWeightStep));
      // Unpacking works within 128-bit lanes, so that each vector has 4 columns of every 16.
      float* to = sum + head * stride + 4 * i;
      _mm_storeu_ps(to, _mm512_extractf32x4_ps(sums, 0));
      if (Whole || columns > 16) _mm_storeu_ps(to + 16, _mm512_extractf32x4_ps(sums, 1));
      if (Whole || columns > 32) _mm_storeu_ps(to + 32, _mm512_extractf32x4_ps(sums, 2));
      if (Whole) _mm_storeu_ps(to + 48, _mm512_extractf32x4_ps(sums, 3));
    }
}

template <int Heads = 3>
inline void int8_sum_heads(std::size_t heads, const std::uint8_t* parts, const std::int8_t* values, std::size_t keys,
                           std::size_t dim, std::size_t columns, float* sum, std::size_t stride) {
  if (heads >= Heads) {
    (columns == kKvStep ? int8_sum_tile<Heads, true> : int8_sum_tile<Heads, false>)(parts, values, keys, dim, columns,
                                                                                    sum, stride);
  } else if constexpr (Heads > 1) {
    int8_sum_heads<Heads - 1>(heads, parts, values, keys, dim, columns, sum, stride);
  }
}

}  // namespace detail

// scores [group, keys], rows `stride` apart, of queries with parts [group, 2, dim] and keys [keys, dim]. Overwrites up
// to the end of each row's last vector.
inline void int8_scores(const QuantizedQuery* queries, const std::int8_t* parts, std::size_t group,
                        const std::int8_t* key, std::size_t keys, std::size_t dim, float* scores, std::size_t stride) {
  alignas(64) float words[kMaxInt8HeadDim / 4 * kLanes];
  for (std::size_t first = 0; first < keys; first += kLanes) {
    const std::size_t count = std::min<std::size_t>(kLanes, keys - first), row_words = dim / 4;
    alignas(64) float copy[kMaxInt8HeadDim / 4 * kLanes];
    const float* rows = reinterpret_cast<const float*>(key + first * dim);
    // Transposition reads rows of a multiple of kKvStep bytes, up to three keys further, of whose words score tiles
    // read only those of `dim`.
    if (count < kLanes || (dim % kKvStep && keys - first < kLanes + 3)) {
      std::memcpy(copy, rows, count * dim);
      std::memset(reinterpret_cast<std::int8_t*>(copy) + count * dim, 0, (kLanes - count) * dim);
      rows = copy;
    }
    for (std::size_t at = 0; at < row_words; at += kLanes)
      detail::transpose_square(rows + at, row_words, words + at * kLanes, kLanes,
                               std::make_integer_sequence<int, kLanes>{});
    for (std::size_t head = 0; head < group; head += 4)
      detail::int8_score_heads(group - head, queries + head, parts + 2 * head * dim, words, dim,
                               scores + head * stride + first, stride);
  }
}

// sum [group, dim], rows `stride` apart, of softmax weights [group, keys] in [0, 1], rows `weight_stride` apart, times
// values [keys, dim]; at most kKeysPerBlock keys.
inline void int8_weighted_sum(const float* weights, std::size_t weight_stride, std::size_t group,
                              const std::int8_t* value, std::size_t keys, std::size_t dim, float* sum,
                              std::size_t stride) {
  static_assert(kKvStep == kKeysPerBlock);  // the parts of a block's weights fill a vector
  for (std::size_t head = 0; head < group; head += 3) {
    const std::size_t heads = std::min<std::size_t>(3, group - head);
    alignas(64) std::uint8_t parts[3 * 2 * kKvStep];
    for (std::size_t i = 0; i < heads; ++i) {
      for (std::size_t k = 0; k < kKvStep; k += kLanes) {
        const auto valid = static_cast<__mmask16>(k >= keys ? 0 : keys - k >= 16 ? 0xffff : (1u << (keys - k)) - 1);
        const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, weights + (head + i) * weight_stride + k),
                                       _mm512_set1_ps(255.0f));
        const __m512i high = _mm512_cvttps_epi32(x);
        const __m512 rest = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_cvtepi32_ps(high)), _mm512_set1_ps(255.0f));
        std::uint8_t* to = parts + 2 * i * kKvStep + k;
        _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(high));
        _mm_store_si128(reinterpret_cast<__m128i*>(to + kKvStep), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(rest)));
      }
    }
    for (std::size_t at = 0; at < dim; at += kKvStep)
      detail::int8_sum_heads(heads, parts, value + at, keys, dim, std::min(kKvStep, dim - at), sum + head * stride + at,
                             stride);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
