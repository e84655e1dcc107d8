// The online softmax of blocked attention, for as many rows at once as a vector has lanes: what is known of each row is
// one number of a vector then, and only the scores themselves are gone through row by row.
//
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
#pragma once

#include <algorithm>

#include "attention_parts.h"

namespace edgekiln::EDGEKILN_ISA {

// The scores of a row that count.
struct Seen {
  std::size_t from, to;
};

namespace detail {

// What of a vector at `at` is seen, and `rest` in its other lanes.
inline Floats seen_lanes(Floats value, std::size_t at, Seen seen, float rest) {
  if (at + kLanes > seen.to) value = first_lanes(value, seen.to - at, rest);
  if (at < seen.from) {
    const Floats before = first_lanes(broadcast(1.0f), seen.from - at, 0.0f);
    value = before > 0.0f ? broadcast(rest) : value;
  }
  return value;
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

}  // namespace detail

// scores[kLanes, stride] of the next `count` keys become e^(score - maximum), and zero where they are not seen. Brings
// the rows' maximum[kLanes], the total[kLanes] of their weights and the values[kLanes, width] summed with them up to
// that; maximum is kNone where nothing was seen yet. `count` and `width` are multiples of kLanes.
inline void weigh(float* scores, std::size_t stride, const Seen* seen, std::size_t count, float* maximum, float* total,
                  float* values, std::size_t width) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = detail::largest_seen(scores + i * stride, seen[i]);
  const Floats before = load(maximum), now = larger(before, largest_lanes(rows));
  const Floats fade = now > before ? exp_of_negative(before - now) : broadcast(1.0f);
  store(maximum, now);
  for (int i = 0; i < kLanes; ++i) rows[i] = detail::weigh_seen(scores + i * stride, seen[i], count, maximum[i]);
  store(total, load(total) * fade + sums(rows));
  for (int i = 0; i < kLanes; ++i) {
    if (fade[i] == 1.0f) continue;
    for (std::size_t j = 0; j < width; j += kLanes)
      store(values + i * width + j, load(values + i * width + j) * fade[i]);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
