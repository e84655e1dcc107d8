// The online softmax of blocked attention (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
//
// It processes kLanes query rows at once, so that the maxima and sums of all of them are one vector each; only the
// scores themselves are visited row by row.
#pragma once

#include "kernels/vector/attention_parts.h"

namespace edgekiln::EDGEKILN_ISA {

// Adds the next block of keys to the softmax of kLanes query rows. Replaces scores [kLanes, count], rows `stride`
// apart, by the weights e^(score - maximum), 0 outside each row's range. Updates the running maximum [kLanes], which is
// kMinusInfinity before the first block, and the sum of weights [kLanes], and rescales the accumulated values
// [kLanes, width] to the new maximum. `count` and `width` are multiples of kLanes.
inline void online_softmax(float* scores, std::size_t stride, const MaskRange* ranges, std::size_t count,
                           float* maximum, float* total, float* values, std::size_t width) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = masked_max(scores + i * stride, ranges[i]);
  const Floats before = load(maximum), now = larger(before, largest_lanes(rows));
  const Floats rescale = now > before ? exp_of_negative(before - now) : broadcast(1.0f);
  store(maximum, now);
  for (int i = 0; i < kLanes; ++i) rows[i] = masked_exp(scores + i * stride, ranges[i], count, maximum[i]);
  store(total, added(sums(rows), load(total), rescale));
  for (int i = 0; i < kLanes; ++i) {
    if (rescale[i] == 1.0f) continue;
    for (std::size_t j = 0; j < width; j += kLanes)
      store(values + i * width + j, load(values + i * width + j) * rescale[i]);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
