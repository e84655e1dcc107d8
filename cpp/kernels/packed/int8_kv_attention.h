// Decode attention over an int8 KV cache in integer arithmetic, without dequantizing keys or values.
//
// Queries and softmax weights are quantized to two parts of 8 bits each, which keeps 15 bits of them or more: a query
// is scale * (256 * high + low), a weight (255 * high + low) / 255^2. The integer sums of both parts are exact and
// scaled once, so that every instruction set gets the same bits. An instruction set's header has the products:
//
//   kKvStep                      kInt8HeadUnit, or twice as much
//   store_query, store_weights   write the parts of kLanes values, two bytes a value
//   QueryPart, load_key<Size>    kKvStep values of a query, as many of a key of which Size are not zero
//   ScoreSum                     accumulates their products
//   value_tile<Heads, Columns>   weighted sums of kKvStep or kInt8HeadUnit columns
//   kInt8ScoreHeads, kInt8ScoreKeys, kInt8SumHeads   register tiles
#pragma once

#include "kernels/vector/attention_products.h"

namespace edgekiln::EDGEKILN_ISA {
// Which head_dim is multiplied so, on all instruction sets alike.
inline constexpr std::size_t kInt8HeadUnit = 16;     // a multiple of it
inline constexpr std::size_t kMaxInt8HeadDim = 256;  // at most: the sums fit int32

inline constexpr float kWeightStep = 1.0f / 65025;  // 1 / 255^2, of a weight's 255 * high + low
}  // namespace edgekiln::EDGEKILN_ISA

#if defined(__AVX512VNNI__)
#define EDGEKILN_INT8_KV_ATTENTION
#include "kernels/avx512/int8_kv_attention.h"
#else
#if defined(__AVX2__)
#define EDGEKILN_INT8_KV_ATTENTION
#include "kernels/avx2/int8_kv_products.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#define EDGEKILN_INT8_KV_ATTENTION
#include "kernels/neon/int8_kv_products.h"
#endif

#if defined(EDGEKILN_INT8_KV_ATTENTION)
#include <algorithm>

namespace edgekiln::EDGEKILN_ISA {

struct QuantizedQuery {
  float scale;
};

// Quantizes query[dim] to 2 * dim bytes of parts.
inline QuantizedQuery quantize_query(const float* query, std::size_t dim, std::int8_t* parts) {
  Floats most{};
  for (std::size_t i = 0; i < dim; i += kLanes) {
    const Floats x = load(query + i);
    most = larger(most, larger(x, -x));
  }
  const float largest = largest_lane(most), inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
  for (std::size_t i = 0; i < dim; i += kLanes) {
    const Floats x = load(query + i) * inverse;
    const Ints high = to_ints(x), low = to_ints((x - to_floats(high)) * 256.0f);
    store_query(high, low < 127 ? low : low - low + 127, i, dim, parts);
  }
  return {largest / (127.0f * 256.0f)};
}

namespace detail {

// sums[head][key] = the dot products of a query and a key, still to be added across lanes.
template <int Heads, int Keys>
inline void int8_score_tile(const std::int8_t* parts, const std::int8_t* key, std::size_t dim, Ints (*sums)[kLanes]) {
  ScoreSum sum[Heads][Keys];
  const auto add = [&]<std::size_t Size>(std::size_t at) {
    QueryPart x[Heads];
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head) x[head] = QueryPart::load(parts + 2 * head * dim, at, dim);
#pragma GCC unroll 8
    for (int i = 0; i < Keys; ++i) {
      const KeyPart part = load_key<Size>(key + i * dim + at);
#pragma GCC unroll 8
      for (int head = 0; head < Heads; ++head) sum[head][i].add(x[head], part);
    }
  };
  std::size_t at = 0;
  for (; at + kKvStep <= dim; at += kKvStep) add.template operator()<kKvStep>(at);
  if constexpr (kKvStep > kInt8HeadUnit) {
    if (at < dim) add.template operator()<kInt8HeadUnit>(at);
  }
#pragma GCC unroll 8
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
    for (int i = 0; i < Keys; ++i) sums[head][i] = sum[head][i].total();
}

template <int Heads>
inline void int8_score_heads(std::size_t heads, const QuantizedQuery* queries, const std::int8_t* parts,
                             const std::int8_t* key, std::size_t keys, std::size_t dim, float* scores,
                             std::size_t stride) {
  if constexpr (Heads > 1) {
    if (heads < Heads) return int8_score_heads<Heads - 1>(heads, queries, parts, key, keys, dim, scores, stride);
  }
  for (std::size_t first = 0; first < keys; first += kLanes, key += kLanes * dim) {
    Ints products[Heads][kLanes];
    const int count = static_cast<int>(std::min<std::size_t>(kLanes, keys - first));
    const auto to = [&](int lane) { return reinterpret_cast<Ints(*)[kLanes]>(&products[0][lane]); };
    int lane = 0;
    for (; lane + kInt8ScoreKeys <= count; lane += kInt8ScoreKeys)
      int8_score_tile<Heads, kInt8ScoreKeys>(parts, key + lane * dim, dim, to(lane));
    for (; lane < count; ++lane) int8_score_tile<Heads, 1>(parts, key + lane * dim, dim, to(lane));
    for (int head = 0; head < Heads; ++head)
      store(scores + head * stride + first, to_floats(sums(products[head])) * queries[head].scale);
  }
}

template <int Heads>
inline void int8_sum_heads(std::size_t heads, const std::int8_t* parts, const std::int8_t* values, std::size_t keys,
                           std::size_t dim, float* sum, std::size_t stride) {
  if constexpr (Heads > 1) {
    if (heads < Heads) return int8_sum_heads<Heads - 1>(heads, parts, values, keys, dim, sum, stride);
  }
  std::size_t at = 0;
  for (; at + kKvStep <= dim; at += kKvStep)
    value_tile<Heads, kKvStep>(parts, values + at, keys, dim, sum + at, stride);
  if constexpr (kKvStep > kInt8HeadUnit) {
    if (at < dim) value_tile<Heads, kInt8HeadUnit>(parts, values + at, keys, dim, sum + at, stride);
  }
}

}  // namespace detail

// scores [group, keys], rows `stride` apart, of queries with parts [group, 2 * dim] and keys [keys, dim]. Overwrites up
// to the end of each row's last vector, and may read kInt8HeadUnit * 2 bytes past the parts.
inline void int8_scores(const QuantizedQuery* queries, const std::int8_t* parts, std::size_t group,
                        const std::int8_t* key, std::size_t keys, std::size_t dim, float* scores, std::size_t stride) {
  for (std::size_t head = 0; head < group; head += kInt8ScoreHeads)
    detail::int8_score_heads<kInt8ScoreHeads>(std::min<std::size_t>(group - head, kInt8ScoreHeads), queries + head,
                                              parts + 2 * head * dim, key, keys, dim, scores + head * stride, stride);
}

// sum [group, dim], rows `stride` apart, of softmax weights [group, keys] in [0, 1], rows `weight_stride` apart, times
// values [keys, dim]; at most kKeysPerBlock keys.
inline void int8_weighted_sum(const float* weights, std::size_t weight_stride, std::size_t group,
                              const std::int8_t* value, std::size_t keys, std::size_t dim, float* sum,
                              std::size_t stride) {
  alignas(64) std::int8_t parts[kInt8SumHeads * 2 * kKeysPerBlock];
  for (std::size_t head = 0; head < group; head += kInt8SumHeads) {
    const std::size_t heads = std::min<std::size_t>(kInt8SumHeads, group - head);
    for (std::size_t i = 0; i < heads; ++i) {
      for (std::size_t k = 0; k < kKeysPerBlock; k += kLanes) {
        Floats x = load(weights + (head + i) * weight_stride + k) * 255.0f;
        if (k + kLanes > keys) x = first_lanes(x, k < keys ? keys - k : 0, Floats{});
        const Ints high = __builtin_convertvector(x, Ints);
        store_weights(high, to_ints((x - to_floats(high)) * 255.0f), k, parts + 2 * i * kKeysPerBlock);
      }
    }
    detail::int8_sum_heads<kInt8SumHeads>(heads, parts, value, keys, dim, sum + head * stride, stride);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
#endif
#endif
