// Sampling filters (top-k, top-p, min-p), and the draw from the remaining tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace edgekiln {

using Indices = std::vector<std::int32_t>;

// Ascending indices of the `k` highest scores and of scores equal to the k-th.
Indices top_k(std::span<const float> scores, std::size_t k);

// Ascending indices of the fewest highest scores whose softmax probabilities sum to at least `p`, and of scores equal
// to the last of them.
Indices top_p(std::span<const float> scores, double p);

// Ascending indices of scores whose softmax probability is at least `p` times the highest.
Indices min_p(std::span<const float> scores, double p);

// Index of the first weight whose cumulative sum exceeds `uniform`, in [0, 1), times the total. Sums are float64.
std::size_t pick(std::span<const float> weights, double uniform);

}  // namespace edgekiln
