// Sums of floats in one order for vectors of every width, so that instruction sets agree on the bits.
//
// A value's index modulo kStripes chooses the partial sum that it is added to, in the order of the indices. The partial
// sums are then added by distance: those 8 apart, then 4, 2 and 1.
#pragma once

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr int kStripes = 16;
inline constexpr int kStripeParts = kStripes / kLanes;  // vectors that hold the partial sums

// Adds the distances of a vector or more; those within a vector are left to add.
inline Floats sum_of_parts(const Floats (&parts)[kStripeParts]) {
  if constexpr (kStripeParts == 1) {
    return parts[0];
  } else if constexpr (kStripeParts == 2) {
    return parts[0] + parts[1];
  } else {
    return (parts[0] + parts[2]) + (parts[1] + parts[3]);
  }
}

inline float sum_of_stripes(const Floats (&parts)[kStripeParts]) { return sum_of_lanes(sum_of_parts(parts)); }

}  // namespace edgekiln::EDGEKILN_ISA
