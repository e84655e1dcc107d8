// The exponential function used in sampling.
#pragma once

#include <span>

namespace edgekiln {

// Replace each x <= 0 of `values` by exp(x), with an error of at most 2.5 units in the last place.
//
// The results have the bits of NumPy's on processors with FMA: a draw sums tens of thousands of them, and a difference
// of one unit in each would sometimes select another token than the Python runtimes do.
void exp_of_negative(std::span<float> values);

}  // namespace edgekiln
