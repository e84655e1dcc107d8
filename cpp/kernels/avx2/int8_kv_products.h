// Products of an int8 KV cache with queries and softmax weights in 16 bits: VPMADDWD, or VPDPWSSD of AVX-VNNI,
// multiplies pairs of int16 and adds them in int32. For AVX2 with or without AVX-VNNI, and for AVX-512 without VNNI.
//
// Both parts of a query or weight (packed/int8_kv_attention.h) are one int16 here; the sums are those of the two parts.
#pragma once

#include "kernels/avx2/avx_vnni.h"
#include "kernels/vector/attention_products.h"

namespace edgekiln::EDGEKILN_ISA {

// A vector of int16, two for each lane.
using Shorts = std::int16_t __attribute__((vector_size(kLanes * 2 * sizeof(std::int16_t))));

namespace detail {

// `Size` codes, zeros past them.
template <std::size_t Size>
inline Shorts load_shorts(const std::int8_t* codes) {
#if defined(__AVX512F__)
  if constexpr (Size == kLanes) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    return reinterpret_cast<Shorts>(_mm512_cvtepi8_epi16(_mm256_zextsi128_si256(half)));
  }
  return reinterpret_cast<Shorts>(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes))));
#else
  return reinterpret_cast<Shorts>(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
#endif
}

inline Shorts broadcast_pair(const std::int16_t* pair) {
  std::int32_t word;
  std::memcpy(&word, pair, sizeof word);
  return reinterpret_cast<Shorts>(word - Ints{});
}

// sum + the products of both pairs of each lane.
inline Ints add_products(Ints sum, Shorts a, Shorts b) {
#if defined(__AVX512F__)
  return sum + reinterpret_cast<Ints>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(EDGEKILN_HAS_AVXVNNI)
  return reinterpret_cast<Ints>(
      dpwssd(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return sum + reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#endif
}

// Interleave the lower or upper halves of each 128 bits.
inline Shorts unpack_low(Shorts a, Shorts b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Shorts>(_mm512_unpacklo_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
  return reinterpret_cast<Shorts>(_mm256_unpacklo_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#endif
}
inline Shorts unpack_high(Shorts a, Shorts b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Shorts>(_mm512_unpackhi_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#else
  return reinterpret_cast<Shorts>(_mm256_unpackhi_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#endif
}

// kLanes values that int16 holds.
inline void store_shorts(std::int16_t* to, Ints values) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(values)));
#else
  const auto both = reinterpret_cast<__m256i>(values);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_packs_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#endif
}

}  // namespace detail

inline constexpr std::size_t kKvStep = 2 * kLanes;

// Query heads and keys of a tile of scores, and query heads of a tile of sums.
inline constexpr int kInt8ScoreHeads = 3, kInt8ScoreKeys = 4;
inline constexpr int kInt8SumHeads = 4;

// The values `at` of a query, of `dim`.
inline void store_query(Ints high, Ints low, std::size_t at, std::size_t, std::int8_t* parts) {
  detail::store_shorts(reinterpret_cast<std::int16_t*>(parts) + at, high * 256 + low);
}

struct QueryPart {
  Shorts value;
  static QueryPart load(const std::int8_t* parts, std::size_t at, std::size_t) {
    QueryPart part;
    std::memcpy(&part.value, parts + 2 * at, sizeof part.value);
    return part;
  }
};

using KeyPart = Shorts;
template <std::size_t Size>
inline KeyPart load_key(const std::int8_t* codes) {
  return detail::load_shorts<Size>(codes);
}

// Accumulates the products of a query and a key, over all lanes.
struct ScoreSum {
  Ints sum{};
  void add(const QueryPart& query, KeyPart key) { sum = detail::add_products(sum, query.value, key); }
  Ints total() const { return sum; }
};

// A weight is 255 * high + low, up to 65025: int16 holds it minus 2^15, which value_tile() corrects for.
inline void store_weights(Ints high, Ints low, std::size_t at, std::int8_t* parts) {
  detail::store_shorts(reinterpret_cast<std::int16_t*>(parts) + at, high * 255 + low - 32768);
}

// sum [Heads, Columns], rows `stride` apart, of the weights of Heads heads times the first Columns columns of values
// [keys, dim].
template <int Heads, std::size_t Columns>
inline void value_tile(const std::int8_t* parts, const std::int8_t* values, std::size_t keys, std::size_t dim,
                       float* sum, std::size_t stride) {
  Ints low[Heads], high[Heads];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) low[head] = high[head] = Ints{};
  Shorts plain{};  // sums of the values, without weights: at most kKeysPerBlock * 128
  const auto* weights = reinterpret_cast<const std::int16_t*>(parts);
  const auto add_pair = [&](const std::int8_t* first, const std::int8_t* second) {
    const Shorts a = detail::load_shorts<Columns>(first), b = detail::load_shorts<Columns>(second);
    plain += a + b;
    const Shorts low_pairs = detail::unpack_low(a, b), high_pairs = detail::unpack_high(a, b);
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const Shorts pair = detail::broadcast_pair(weights + head * kKeysPerBlock);
      low[head] = detail::add_products(low[head], low_pairs, pair);
      high[head] = detail::add_products(high[head], high_pairs, pair);
    }
  };
  for (const auto* end = weights + keys / 2 * 2; weights != end; weights += 2, values += 2 * dim)
    add_pair(values, values + dim);
  if (keys % 2) add_pair(values, values);  // the second one has weight 0
  // Sign extension in the order of the pairs; the shift multiplies by 2^15.
  const Ints low_plain = reinterpret_cast<Ints>(detail::unpack_low(plain, plain)) >> 16 << 15;
  const Ints high_plain = reinterpret_cast<Ints>(detail::unpack_high(plain, plain)) >> 16 << 15;
  const auto store_columns = [](float* to, Ints total) {
    const Floats scaled = to_floats(total) * kWeightStep;
    // Every 128 bits hold four columns of eight.
    for (std::size_t i = 0; i < Columns / 8; ++i)
      std::memcpy(to + 8 * i, reinterpret_cast<const float*>(&scaled) + 4 * i, 16);
  };
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    store_columns(sum + head * stride, low[head] + low_plain);
    store_columns(sum + head * stride + 4, high[head] + high_plain);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
