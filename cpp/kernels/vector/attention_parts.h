// Steps that decode and prefill attention share: rotary embedding, storing and loading keys and values, softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/vector/exponential.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// to[head_dim] = factor * from[head_dim] with the rotary embedding of row `angle` of the cosines and sines (Su et al.,
// "RoFormer", 2021).
inline void rotate(const AttentionArgs& args, const float* __restrict from, float* __restrict to, std::size_t angle,
                   float factor) {
  const std::size_t half = args.rotary_dim / 2;
  const float* __restrict cosine = args.cosine + angle * half;
  const float* __restrict sine = args.sine + angle * half;
  if (args.interleaved) {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[2 * pair], y = from[2 * pair + 1];
      to[2 * pair] = factor * subtracted(x * cosine[pair], y, sine[pair]);
      to[2 * pair + 1] = factor * added(x * sine[pair], y, cosine[pair]);
    }
  } else {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[pair], y = from[half + pair];
      to[pair] = factor * subtracted(x * cosine[pair], y, sine[pair]);
      to[half + pair] = factor * added(x * sine[pair], y, cosine[pair]);
    }
  }
  for (std::size_t i = 2 * half; i < args.head_dim; ++i) to[i] = factor * from[i];
}

// The row of cosines and sines of new token `s` of a sequence.
inline std::size_t angle_of(const AttentionArgs& args, std::size_t sequence, std::size_t s) {
  const std::size_t token = sequence * args.length + s;
  if (!args.rotary_table) return token;
  return args.position_ids ? static_cast<std::size_t>(args.position_ids[token]) : args.past(sequence) + s;
}

// The offset of a position's key or value in a cache, in elements.
inline std::size_t cache_offset(const AttentionArgs& args, std::size_t sequence, std::size_t kv_head,
                                std::size_t position) {
  return ((sequence * args.kv_heads + kv_head) * args.capacity + position) * args.head_dim;
}

// Loads the keys or values of positions [first, first + count) as floats [count, head_dim]. The result points into a
// float cache, or to `buffer` with the codes of an int8 cache, which apply_scales() still has to scale.
inline const float* load_kv(const AttentionArgs& args, const CacheTensor& cache, std::size_t sequence,
                            std::size_t kv_head, std::size_t first, std::size_t count, float* buffer) {
  const std::size_t offset = cache_offset(args, sequence, kv_head, first), size = count * args.head_dim;
  if (!cache.scales) return static_cast<const float*>(cache.data) + offset;
  const std::int8_t* codes = static_cast<const std::int8_t*>(cache.data) + offset;
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(buffer + i, load(codes + i));
  for (; i < size; ++i) buffer[i] = codes[i];
  return buffer;
}

// Stores the key or value of one position, quantized to int8 in an int8 cache.
inline void store_kv(const AttentionArgs& args, const CacheTensor& cache, std::size_t sequence, std::size_t kv_head,
                     std::size_t position, const float* from) {
  const std::size_t offset = cache_offset(args, sequence, kv_head, position);
  if (!cache.scales) {
    std::copy_n(from, args.head_dim, static_cast<float*>(cache.data) + offset);
    return;
  }
  std::int8_t* codes = static_cast<std::int8_t*>(cache.data) + offset;
  const float* scales = cache.scales + kv_head * args.head_dim;
  std::size_t i = 0;
  for (; i + kLanes <= args.head_dim; i += kLanes) store(codes + i, load(from + i) / load(scales + i));
  for (; i < args.head_dim; ++i)
    codes[i] = static_cast<std::int8_t>(std::nearbyint(std::clamp(from[i] / scales[i], -128.0f, 127.0f)));
}

// Multiplies x[head_dim] by the scales of an int8 cache. Queries take the scales of keys and outputs those of values,
// so that the codes themselves are never scaled.
inline void apply_scales(const AttentionArgs& args, const CacheTensor& cache, std::size_t kv_head, float* x) {
  if (!cache.scales) return;
  const float* scales = cache.scales + kv_head * args.head_dim;
  for (std::size_t i = 0; i < args.head_dim; ++i) x[i] *= scales[i];
}

// Prepares new token `s` of a sequence: stores its rotated keys and its values, and writes its rotated and scaled
// queries, head_dim floats a head, to `queries`, `stride` floats from head to head.
inline void append_token(const AttentionArgs& args, float* queries, std::size_t stride, std::size_t sequence,
                         std::size_t s) {
  const std::size_t token = sequence * args.length + s, position = args.past(sequence) + s, dim = args.head_dim;
  const std::size_t angle = angle_of(args, sequence, s);
  for (std::size_t head = 0; head < args.heads; ++head) {
    float* query = queries + head * stride;
    rotate(args, args.query + token * args.query_stride + head * dim, query, angle, args.scale);
    apply_scales(args, args.key_cache, head / (args.heads / args.kv_heads), query);
  }
  thread_local Scratch memory;
  float* const key = at_least(memory, dim);
  for (std::size_t head = 0; head < args.kv_heads; ++head) {
    rotate(args, args.key + token * args.key_stride + head * dim, key, angle, 1.0f);
    store_kv(args, args.key_cache, sequence, head, position, key);
    store_kv(args, args.value_cache, sequence, head, position, args.value + token * args.value_stride + head * dim);
  }
}

// scores = softcap * tanh(scores / softcap)
[[gnu::noinline]] inline void cap_scores(float* scores, std::size_t count, float softcap) {
  const float inverse = 1.0f / softcap;
  const auto cap = [&](float* at) { store(at, tanh_of(load(at) * inverse) * softcap); };
  const std::size_t whole = count / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) cap(scores + i);
  float last[kLanes] = {};
  std::copy_n(scores + whole, count - whole, last);
  cap(last);
  std::copy_n(last, count - whole, scores + whole);
}

// Adds the bias of new token s of a sequence to its scores of `count` keys from position `first`.
inline void add_bias(const AttentionArgs& args, std::size_t sequence, std::size_t head, std::size_t s,
                     std::size_t first, float* scores, std::size_t count) {
  if (!args.bias.data) return;
  const float* bias = args.bias.data + sequence * args.bias.sequence_stride + head * args.bias.head_stride +
                      s * args.bias.token_stride + first;
  for (std::size_t i = 0; i < count; ++i) scores[i] += bias[i];
}

// The keys of a block that a query attends to: causal attention and the sliding window mask all others.
struct MaskRange {
  std::size_t from, to;
};

// The vector of scores [at, at + kLanes), with `masked` in the lanes outside the range.
inline Floats apply_mask(Floats value, std::size_t at, MaskRange range, float masked) {
  if (at + kLanes > range.to) value = first_lanes(value, range.to - at, broadcast(masked));
  return at < range.from ? first_lanes(broadcast(masked), range.from - at, value) : value;
}

// The maxima, lane by lane, of the scores in the range.
inline Floats masked_max(const float* scores, MaskRange range) {
  Floats best = broadcast(kMinusInfinity);
  for (std::size_t at = range.from / kLanes * kLanes; at < range.to; at += kLanes)
    best = larger(best, apply_mask(load(scores + at), at, range, kMinusInfinity));
  return best;
}

// Replaces scores[0, count) by their weights, e^(score - shift) in the range and 0 outside. Returns the weights' sums,
// in stripes of which the lanes are left to add.
inline Floats masked_exp(float* scores, MaskRange range, std::size_t count, float shift) {
  Floats sums[kStripeParts] = {};
  const auto weigh = [&](std::size_t at, Floats& sum) {
    const Floats weights = apply_mask(exp_of_negative(load(scores + at) - shift), at, range, 0.0f);
    store(scores + at, weights);
    sum += weights;
  };
  std::size_t at = 0;
  for (const std::size_t first = range.from / kStripes * kStripes; at < first; at += kLanes)
    store(scores + at, Floats{});
  for (; at + kStripes <= range.to; at += kStripes)
    for (int part = 0; part < kStripeParts; ++part) weigh(at + part * kLanes, sums[part]);
  for (Floats& sum : sums) {
    if (at >= range.to) break;
    weigh(at, sum);
    at += kLanes;
  }
  for (; at < count; at += kLanes) store(scores + at, Floats{});
  return sum_of_parts(sums);
}

// The maximum of scores[0, count). Reads up to the end of the last vector.
inline float max_score(const float* scores, std::size_t count) { return largest_lane(masked_max(scores, {0, count})); }

// Replaces scores[0, count) by e^(score - shift) and returns their sum. Overwrites up to the end of the last vector.
inline float exp_scores(float* scores, std::size_t count, float shift) {
  return sum_of_lanes(masked_exp(scores, {0, count}, count, shift));
}

}  // namespace edgekiln::EDGEKILN_ISA
