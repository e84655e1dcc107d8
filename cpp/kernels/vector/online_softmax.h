// The online softmax of blocked attention, for as many rows at once as a vector has lanes: what is known of each row is
// one number of a vector then, and only the scores themselves are gone through row by row.
//
// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
#pragma once

#include "kernels/vector/attention_parts.h"

namespace edgekiln::EDGEKILN_ISA {

// scores[kLanes, stride] of the next `count` keys become e^(score - maximum), and zero where they are not seen. Brings
// the rows' maximum[kLanes], the total[kLanes] of their weights and the values[kLanes, width] summed with them up to
// that; maximum is kNone where nothing was seen yet. `count` and `width` are multiples of kLanes.
inline void weigh(float* scores, std::size_t stride, const Seen* seen, std::size_t count, float* maximum, float* total,
                  float* values, std::size_t width) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = largest_seen(scores + i * stride, seen[i]);
  const Floats before = load(maximum), now = larger(before, largest_lanes(rows));
  const Floats fade = now > before ? exp_of_negative(before - now) : broadcast(1.0f);
  store(maximum, now);
  for (int i = 0; i < kLanes; ++i) rows[i] = weigh_seen(scores + i * stride, seen[i], count, maximum[i]);
  store(total, load(total) * fade + sums(rows));
  for (int i = 0; i < kLanes; ++i) {
    if (fade[i] == 1.0f) continue;
    for (std::size_t j = 0; j < width; j += kLanes)
      store(values + i * width + j, load(values + i * width + j) * fade[i]);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
