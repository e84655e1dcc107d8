#include "sampling/filters.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "sampling/exp.h"

namespace edgekiln {

namespace {

Indices at_least(std::span<const float> values, float threshold) {
  Indices kept;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (values[i] >= threshold) kept.push_back(static_cast<std::int32_t>(i));
  return kept;
}

}  // namespace

Indices top_k(std::span<const float> scores, std::size_t k) {
  if (k >= scores.size()) {
    Indices all(scores.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<float> ordered(scores.begin(), scores.end());
  const auto smallest = ordered.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(ordered.begin(), smallest, ordered.end(), std::greater<>());
  return at_least(scores, *smallest);
}

Indices top_p(std::span<const float> scores, double p) {
  const float highest = *std::max_element(scores.begin(), scores.end());
  std::vector<float> weights(scores.size());
  std::transform(scores.begin(), scores.end(), weights.begin(), [=](float score) { return score - highest; });
  exp_of_negative(weights);
  double sum = 0;
  for (const float weight : weights) sum += static_cast<double>(weight);
  // The weights below `least` together are less than the share 1 - p that may be left out, however many they are.
  const auto least = static_cast<float>((1 - p) / static_cast<double>(weights.size()));
  std::vector<float> likely;
  std::copy_if(weights.begin(), weights.end(), std::back_inserter(likely), [=](float w) { return w >= least; });
  std::sort(likely.begin(), likely.end(), std::greater<>());
  const double mass = p * sum;
  double reached = 0;
  for (const float weight : likely) {
    reached += static_cast<double>(weight);
    if (reached >= mass) return at_least(weights, weight);
  }
  return at_least(weights, likely.back());
}

Indices min_p(std::span<const float> scores, double p) {
  const float highest = *std::max_element(scores.begin(), scores.end());
  return at_least(scores, highest + static_cast<float>(std::log(p)));
}

std::size_t pick(std::span<const float> weights, double uniform) {
  constexpr std::size_t kBlock = 256;
  std::vector<double> blocks;
  for (std::size_t start = 0; start < weights.size(); start += kBlock) {
    const auto block = weights.subspan(start, std::min(kBlock, weights.size() - start));
    double sum = 0;
    for (const float weight : block) sum += static_cast<double>(weight);
    blocks.push_back(blocks.empty() ? sum : blocks.back() + sum);
  }
  const double target = uniform * blocks.back();
  const auto found = static_cast<std::size_t>(std::upper_bound(blocks.begin(), blocks.end(), target) - blocks.begin());
  const std::size_t block = std::min(found, blocks.size() - 1);
  const double rest = target - (block ? blocks[block - 1] : 0.0);
  const std::size_t end = std::min((block + 1) * kBlock, weights.size());
  double sum = 0;
  for (std::size_t i = block * kBlock; i < end; ++i) {
    sum += static_cast<double>(weights[i]);
    if (sum > rest) return i;
  }
  return end - 1;
}

}  // namespace edgekiln
