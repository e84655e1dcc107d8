// The exponential that draws are made with.
#pragma once

#include <span>

namespace edgekiln {

// Replace each x <= 0 of `values` by exp(x), off by at most 2.5 units in the last place.
//
// Bit for bit what NumPy gives on processors with FMA: a draw adds up tens of thousands of these, and one unit in each
// would now and then choose another token.
void exp_of_negative(std::span<float> values);

}  // namespace edgekiln
