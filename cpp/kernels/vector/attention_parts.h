// What both phases of attention do: rotate and append new keys, turn scores into weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr float kNone = -std::numeric_limits<float>::infinity();

inline std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// Copies head_dim floats, rotated to `position` and multiplied by `factor`.
inline void rotate(const AttentionArgs& call, const float* __restrict from, float* __restrict to, std::size_t position,
                   float factor) {
  const std::size_t half = call.rotary_dim / 2;
  const float* __restrict cosine = call.cosine + position * half;
  const float* __restrict sine = call.sine + position * half;
  if (call.interleaved) {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[2 * pair], y = from[2 * pair + 1];
      to[2 * pair] = factor * (x * cosine[pair] - y * sine[pair]);
      to[2 * pair + 1] = factor * (x * sine[pair] + y * cosine[pair]);
    }
  } else {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[pair], y = from[half + pair];
      to[pair] = factor * (x * cosine[pair] - y * sine[pair]);
      to[half + pair] = factor * (x * sine[pair] + y * cosine[pair]);
    }
  }
  for (std::size_t i = 2 * half; i < call.head_dim; ++i) to[i] = factor * from[i];
}

inline std::size_t offset_of(const AttentionArgs& call, std::size_t row, std::size_t kv_head, std::size_t slot) {
  return ((row * call.kv_heads + kv_head) * call.capacity + slot) * call.head_dim;
}

// Slots [first, first + count) as floats [count, head_dim], without their scales: in place, or in `buffer`.
inline const float* cached(const AttentionArgs& call, const Cache& cache, std::size_t row, std::size_t kv_head,
                           std::size_t first, std::size_t count, float* buffer) {
  const std::size_t offset = offset_of(call, row, kv_head, first), size = count * call.head_dim;
  if (!cache.scales) return static_cast<const float*>(cache.data) + offset;
  const std::int8_t* codes = static_cast<const std::int8_t*>(cache.data) + offset;
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(buffer + i, load(codes + i));
  for (; i < size; ++i) buffer[i] = codes[i];
  return buffer;
}

// Writes one slot, head_dim floats.
inline void put(const AttentionArgs& call, const Cache& cache, std::size_t row, std::size_t kv_head, std::size_t slot,
                const float* from) {
  const std::size_t offset = offset_of(call, row, kv_head, slot);
  if (!cache.scales) {
    std::copy_n(from, call.head_dim, static_cast<float*>(cache.data) + offset);
    return;
  }
  std::int8_t* codes = static_cast<std::int8_t*>(cache.data) + offset;
  const float* scales = cache.scales + kv_head * call.head_dim;
  std::size_t i = 0;
  for (; i + kLanes <= call.head_dim; i += kLanes) store(codes + i, load(from + i) / load(scales + i));
  for (; i < call.head_dim; ++i)
    codes[i] = static_cast<std::int8_t>(std::nearbyint(std::clamp(from[i] / scales[i], -128.0f, 127.0f)));
}

// x[head_dim] times the scales that `cached` leaves out.
inline void apply_scales(const AttentionArgs& call, const Cache& cache, std::size_t kv_head, float* x) {
  if (!cache.scales) return;
  const float* scales = cache.scales + kv_head * call.head_dim;
  for (std::size_t i = 0; i < call.head_dim; ++i) x[i] *= scales[i];
}

// Appends the new keys and values of one position to the cache; its rotated, scaled queries go to
// queries [heads, head_dim], those of a head `stride` floats after the one before.
inline void append(const AttentionArgs& call, float* queries, std::size_t stride, std::size_t row, std::size_t s) {
  const std::size_t token = row * call.length + s, position = call.past(row) + s, dim = call.head_dim;
  for (std::size_t head = 0; head < call.heads; ++head) {
    float* query = queries + head * stride;
    rotate(call, call.query + token * call.query_stride + head * dim, query, position, call.scale);
    apply_scales(call, call.key_cache, head / (call.heads / call.kv_heads), query);
  }
  thread_local Scratch memory;
  float* const key = at_least(memory, dim);
  for (std::size_t head = 0; head < call.kv_heads; ++head) {
    rotate(call, call.key + token * call.key_stride + head * dim, key, position, 1.0f);
    put(call, call.key_cache, row, head, position, key);
    put(call, call.value_cache, row, head, position, call.value + token * call.value_stride + head * dim);
  }
}

inline void cap_scores(float* scores, std::size_t count, float softcap) {
  const float inverse = 1.0f / softcap;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(scores + i, tanh_of(load(scores + i) * inverse) * softcap);
  for (; i < count; ++i) scores[i] = softcap * std::tanh(scores[i] * inverse);
}

// The scores of a row that count.
struct Seen {
  std::size_t from, to;
};

// What of a vector at `at` is seen, and `rest` in its other lanes.
inline Floats seen_lanes(Floats value, std::size_t at, Seen seen, float rest) {
  if (at + kLanes > seen.to) value = first_lanes(value, seen.to - at, broadcast(rest));
  return at < seen.from ? first_lanes(broadcast(rest), seen.from - at, value) : value;
}

inline Floats largest_seen(const float* scores, Seen seen) {
  Floats best = broadcast(kNone);
  for (std::size_t at = seen.from / kLanes * kLanes; at < seen.to; at += kLanes)
    best = larger(best, seen_lanes(load(scores + at), at, seen, kNone));
  return best;
}

// Scores become weights, of which the sum is returned; what is not seen of the first `count` becomes zero.
inline Floats weigh_seen(float* scores, Seen seen, std::size_t count, float shift) {
  Floats sum{};
  std::size_t at = 0;
  for (; at + kLanes <= seen.from; at += kLanes) store(scores + at, Floats{});
  for (; at < seen.to; at += kLanes) {
    const Floats weights = seen_lanes(exp_of_negative(load(scores + at) - shift), at, seen, 0.0f);
    store(scores + at, weights);
    sum += weights;
  }
  for (; at < count; at += kLanes) store(scores + at, Floats{});
  return sum;
}

// The largest of scores[0, count). Slots up to a whole vector after them are read.
inline float largest(const float* scores, std::size_t count) { return largest_lane(largest_seen(scores, {0, count})); }

// scores[0, count) become e^(score - shift); their sum. Slots up to a whole vector after them are overwritten.
inline float exponentiate(float* scores, std::size_t count, float shift) {
  return sum_of_lanes(weigh_seen(scores, {0, count}, count, shift));
}

}  // namespace edgekiln::EDGEKILN_ISA
