// The two matrix products of decode attention in float: scores = queries * keys^T and sums = weights * values, for the
// query heads of one key-value head. Codes of an int8 cache are converted as they are loaded. For every instruction
// set.
#pragma once

#include <algorithm>

#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kKeysPerBlock = 64;                     // of decode attention
inline constexpr std::size_t kScoreStride = kKeysPerBlock + kLanes;  // of a row of scores: whole vectors are stored
inline constexpr int kHeadsPerTile = 4;                              // query heads of a register tile, at most

namespace detail {

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr bool kHas32Registers = true;
#else
inline constexpr bool kHas32Registers = false;
#endif

// Parts of the stripes that a tile of scores holds in registers; where that is not all, it takes as many passes.
#if defined(__aarch64__)
inline constexpr int kPartsPerPass = kStripeParts;
#else
inline constexpr int kPartsPerPass = 1;
#endif

// Keys of a tile of scores: heads * keys accumulators a part, one vector of each query and one of keys fill the
// registers, and there should be enough accumulators to hide the latency of the multiply-adds.
inline constexpr int keys_per_tile(int heads) {
  if (kPartsPerPass == 4) return heads == 1 ? 4 : heads < 4 ? 2 : 1;
  if (kHas32Registers) return heads == 1 ? std::min(8, kLanes) : 4;
  return std::min(heads == 1 ? 8 : heads < 4 ? 4 : 2, kLanes);
}

// Vectors of columns of a tile of sums.
inline constexpr int vectors_per_tile(int heads) {
  if (kHas32Registers) return 4;
  return heads < 4 ? 4 : 2;
}

// sums[part][head][key] = Parts parts of the stripes of dot products, from `first` on, for Heads queries and Keys keys.
template <int Parts, int Heads, int Keys, typename Element>
[[gnu::always_inline]] inline void score_parts(const float* query, const Element* key, std::size_t dim, int first,
                                               Floats (&sums)[Parts][Heads][Keys]) {
#pragma GCC unroll 4
  for (int part = 0; part < Parts; ++part)
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
      for (int i = 0; i < Keys; ++i) sums[part][head][i] = Floats{};
  // Two vectors of a row at a time, which Arm loads with one instruction.
  constexpr int kCount = std::min(Parts, 2);
  const auto add = [&]<int Count>(std::size_t j, int part) {
    Floats x[Heads][Count];
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 2
      for (int next = 0; next < Count; ++next) x[head][next] = load(query + head * dim + j + next * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Keys; ++i) {
      Floats values[Count];
#pragma GCC unroll 2
      for (int next = 0; next < Count; ++next) values[next] = load(key + i * dim + j + next * kLanes);
#pragma GCC unroll 2
      for (int next = 0; next < Count; ++next)
#pragma GCC unroll 8
        for (int head = 0; head < Heads; ++head)
          sums[part + next][head][i] = added(sums[part + next][head][i], x[head][next], values[next]);
    }
  };
  std::size_t j = first * kLanes;
  for (; j + (Parts - 1) * kLanes < dim; j += kStripes)
#pragma GCC unroll 2
    for (int part = 0; part < Parts; part += kCount) add.template operator()<kCount>(j + part * kLanes, part);
  if constexpr (Parts > 1) {
#pragma GCC unroll 4
    for (int part = 0; part + 1 < Parts; ++part)
      if (j + part * kLanes < dim) add.template operator()<1>(j + part * kLanes, part);
  }
}

// sums[head][key] = the dot product of a query and a key, still to be added across lanes, for Heads queries and Keys
// keys.
template <int Heads, int Keys, typename Element>
inline void score_tile(const float* query, const Element* key, std::size_t dim, Floats (*sums)[kLanes]) {
  const auto for_each = [](auto&& visit) {
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
      for (int i = 0; i < Keys; ++i) visit(head, i);
  };
  // In the order of sum_of_parts().
  if constexpr (kPartsPerPass == 4) {
    Floats sum[4][Heads][Keys];
    score_parts(query, key, dim, 0, sum);
    for_each([&](int head, int i) {
      sums[head][i] = (sum[0][head][i] + sum[2][head][i]) + (sum[1][head][i] + sum[3][head][i]);
    });
  } else {
    Floats sum[1][Heads][Keys];
    const auto add_part = [&](int part) {
      Floats other[1][Heads][Keys];
      score_parts(query, key, dim, part, other);
      for_each([&](int head, int i) { sum[0][head][i] += other[0][head][i]; });
    };
    score_parts(query, key, dim, 0, sum);
    if constexpr (kStripeParts == 4) add_part(2);
    for_each([&](int head, int i) { sums[head][i] = sum[0][head][i]; });
    if constexpr (kStripeParts == 1) return;
    score_parts(query, key, dim, 1, sum);
    if constexpr (kStripeParts == 4) add_part(3);
    for_each([&](int head, int i) { sums[head][i] += sum[0][head][i]; });
  }
}

// scores [heads, keys], rows kScoreStride apart, for up to Heads heads. Overwrites up to the end of each row's last
// vector.
template <int Heads, typename Element>
inline void score_heads(std::size_t heads, const float* query, const Element* key, std::size_t keys, std::size_t dim,
                        float* scores) {
  if constexpr (Heads > 1) {
    if (heads < Heads) return score_heads<Heads - 1>(heads, query, key, keys, dim, scores);
  }
  constexpr int kKeys = keys_per_tile(Heads);
  for (std::size_t i = 0; i < keys; i += kLanes, key += kLanes * dim) {
    Floats products[Heads][kLanes];
    const int count = static_cast<int>(std::min<std::size_t>(kLanes, keys - i));
    int lane = 0;
    for (; lane + kKeys <= count; lane += kKeys) {
      Floats(*to)[kLanes] = reinterpret_cast<Floats(*)[kLanes]>(&products[0][lane]);
      score_tile<Heads, kKeys>(query, key + lane * dim, dim, to);
    }
    for (; lane < count; ++lane) {
      Floats(*to)[kLanes] = reinterpret_cast<Floats(*)[kLanes]>(&products[0][lane]);
      score_tile<Heads, 1>(query, key + lane * dim, dim, to);
    }
    for (int head = 0; head < Heads; ++head) store(scores + head * kScoreStride + i, sums(products[head]));
  }
}

// sum [Heads, Vectors * kLanes], rows `stride` apart, = weights [Heads, keys] * values [keys, dim].
template <int Heads, int Vectors, typename Element>
inline void sum_tile(const float* weights, const Element* value, std::size_t keys, std::size_t dim, float* sum,
                     std::size_t stride) {
  Floats sums[Heads][Vectors];
#pragma GCC unroll 8
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sums[head][j] = Floats{};
  for (std::size_t k = 0; k < keys; ++k, value += dim) {
    Floats x[Heads];
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head) x[head] = broadcast(weights[head * kScoreStride + k]);
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) {
      const Floats row = load(value + j * kLanes);
#pragma GCC unroll 8
      for (int head = 0; head < Heads; ++head) sums[head][j] = added(sums[head][j], x[head], row);
    }
  }
#pragma GCC unroll 8
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) store(sum + head * stride + j * kLanes, sums[head][j]);
}

template <int Heads, typename Element>
inline void sum_heads(std::size_t heads, const float* weights, const Element* value, std::size_t keys, std::size_t dim,
                      float* sum, std::size_t stride) {
  if constexpr (Heads > 1) {
    if (heads < Heads) return sum_heads<Heads - 1>(heads, weights, value, keys, dim, sum, stride);
  }
  constexpr int kVectors = vectors_per_tile(Heads);
  std::size_t j = 0;
  for (; j + kVectors * kLanes <= dim; j += kVectors * kLanes)
    sum_tile<Heads, kVectors>(weights, value + j, keys, dim, sum + j, stride);
  for (; j < dim; j += kLanes) sum_tile<Heads, 1>(weights, value + j, keys, dim, sum + j, stride);
}

}  // namespace detail

// scores [group, keys], rows kScoreStride apart, = queries [group, dim] * keys [keys, dim]^T; at most kKeysPerBlock
// keys. Overwrites up to the end of each row's last vector.
template <typename Element>
void score_keys(const float* query, std::size_t group, const Element* key, std::size_t keys, std::size_t dim,
                float* scores) {
  if (dim % kLanes == 0) {
    for (std::size_t head = 0; head < group; head += kHeadsPerTile)
      detail::score_heads<kHeadsPerTile>(std::min<std::size_t>(group - head, kHeadsPerTile), query + head * dim, key,
                                         keys, dim, scores + head * kScoreStride);
    return;
  }
  for (std::size_t i = 0; i < keys; ++i) {
    for (std::size_t head = 0; head < group; ++head) {
      float stripes[kStripes] = {};
      for (std::size_t j = 0; j < dim; ++j)
        stripes[j % kStripes] = added(stripes[j % kStripes], query[head * dim + j], key[i * dim + j]);
      Floats parts[kStripeParts];
      std::memcpy(parts, stripes, sizeof parts);
      scores[head * kScoreStride + i] = sum_of_stripes(parts);
    }
  }
}

// sum [group, dim], rows `stride` apart, = weights [group, keys], rows kScoreStride apart, * values [keys, dim].
// Overwrites up to the end of each row's last vector.
template <typename Element>
void sum_values(const float* weights, std::size_t group, const Element* value, std::size_t keys, std::size_t dim,
                float* sum, std::size_t stride) {
  if (dim % kLanes == 0) {
    for (std::size_t head = 0; head < group; head += kHeadsPerTile)
      detail::sum_heads<kHeadsPerTile>(std::min<std::size_t>(group - head, kHeadsPerTile),
                                       weights + head * kScoreStride, value, keys, dim, sum + head * stride, stride);
    return;
  }
  for (std::size_t head = 0; head < group; ++head) {
    std::fill_n(sum + head * stride, (dim + kLanes - 1) / kLanes * kLanes, 0.0f);
    for (std::size_t k = 0; k < keys; ++k)
      for (std::size_t j = 0; j < dim; ++j)
        sum[head * stride + j] = added(sum[head * stride + j], weights[head * kScoreStride + k], value[k * dim + j]);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
