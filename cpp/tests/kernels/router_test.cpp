// Routers against their definition in double precision.
#include "kernels/router.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

using edgekiln::KernelTable, edgekiln::Router, edgekiln::RouterScore;

struct Weights {
  Weights(std::size_t experts, std::size_t hidden, unsigned seed = 7) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(experts * hidden), biases(experts), choice(experts);
    for (float& value : values) value = normal(generator) / std::sqrt(static_cast<float>(hidden)) * 2;
    for (float& value : biases) value = normal(generator);
    for (float& value : choice) value = normal(generator) / 4;
    weight = exactly(values);
    bias = exactly(biases);
    choice_bias = exactly(choice);
  }

  std::unique_ptr<float[]> weight, bias, choice_bias;
};

struct Call {
  Call(const Router& router, std::size_t tokens, unsigned seed = 3) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    x.resize(tokens * router.hidden);
    std::generate(x.begin(), x.end(), [&] { return normal(generator); });
    index.resize(tokens * router.chosen, -1);
    gates.resize(index.size(), NAN);
  }

  void run(const Router& router, const KernelTable& kernels) {
    const std::size_t tokens = x.size() / router.hidden;
    // Allocations of the exact sizes, so that sanitizers detect accesses past them.
    const auto in = exactly(x);
    const auto logits = std::make_unique<float[]>(tokens * router.stride());
    kernels.route(router, {tokens, in.get(), logits.get(), index.data(), gates.data()}, edgekiln::kSerial);
  }

  std::vector<float> x, gates;
  std::vector<std::int64_t> index;
};

std::vector<double> softmax(std::vector<double> values) {
  const double largest = *std::max_element(values.begin(), values.end());
  for (double& value : values) value = std::exp(value - largest);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& value : values) value /= sum;
  return values;
}

// Whether a token has the experts of the highest scores, up to rounding, and the largest error of its gates.
double error_of(const Router& router, const float* x, const std::int64_t* index, const float* gates) {
  std::vector<double> scores(router.experts);
  for (std::size_t expert = 0; expert < router.experts; ++expert) {
    scores[expert] = router.bias ? router.bias[expert] : 0.0;
    for (std::size_t k = 0; k < router.hidden; ++k)
      scores[expert] += static_cast<double>(x[k]) * router.weight[expert * router.hidden + k];
  }
  if (router.score == RouterScore::kSoftmax) scores = softmax(scores);
  if (router.score == RouterScore::kSigmoid)
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  const auto preference = [&](std::size_t expert) {
    return scores[expert] + (router.choice_bias ? router.choice_bias[expert] : 0.0);
  };
  std::vector<double> sorted, expected;
  for (std::size_t expert = 0; expert < router.experts; ++expert) sorted.push_back(preference(expert));
  std::sort(sorted.rbegin(), sorted.rend());
  double worst = 0.0;
  const auto note = [&](double error) { worst = std::isnan(error) ? INFINITY : std::max(worst, error); };
  for (std::size_t i = 0; i < router.chosen; ++i) {
    if (index[i] < 0 || static_cast<std::size_t>(index[i]) >= router.experts) return INFINITY;
    note(std::abs(preference(static_cast<std::size_t>(index[i])) - sorted[i]));
    expected.push_back(scores[static_cast<std::size_t>(index[i])]);
  }
  if (router.score == RouterScore::kSoftmaxOfChosen) expected = softmax(expected);
  const double sum = std::accumulate(expected.begin(), expected.end(), 0.0) + router.sum_epsilon;
  for (std::size_t i = 0; i < router.chosen; ++i)
    note(std::abs(expected[i] / (router.normalized ? sum : 1.0) * router.scale - gates[i]));
  return worst;
}

std::vector<Router> routers(const Weights& weights, std::size_t experts, std::size_t chosen, std::size_t hidden) {
  std::vector<Router> all;
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSoftmaxOfChosen, RouterScore::kSigmoid})
    for (const bool biased : {false, true})
      for (const bool choice_biased : {false, true}) {
        if (choice_biased && score == RouterScore::kSoftmaxOfChosen) continue;
        const float* const bias = biased ? weights.bias.get() : nullptr;
        const float* const choice_bias = choice_biased ? weights.choice_bias.get() : nullptr;
        const bool normalized = biased != choice_biased;
        all.push_back({experts, chosen, hidden, weights.weight.get(), bias, choice_bias, score, normalized,
                       normalized ? 1e-3f : 0.0f, biased ? 2.5f : 1.0f});
      }
  return all;
}

struct Sizes {
  std::size_t experts, chosen, hidden;
};

constexpr Sizes kSizes[] = {{1, 1, 5}, {8, 2, 64}, {13, 13, 70}, {64, 8, 200}, {130, 9, 32}};

}  // namespace

TEST_CASE("routers match double precision") {
  for (const auto& [experts, chosen, hidden] : kSizes) {
    const Weights weights(experts, hidden);
    for (const Router& router : routers(weights, experts, chosen, hidden))
      for (const KernelTable& kernels : tested_kernels())
        for (const std::size_t tokens : {1, 3, 70}) {
          INFO(kernels.instruction_set, ": ", experts, " experts, ", tokens, " tokens, score ",
               static_cast<int>(router.score));
          Call call(router, tokens);
          call.run(router, kernels);
          double worst = 0.0;
          for (std::size_t token = 0; token < tokens; ++token)
            worst = std::max(worst, error_of(router, &call.x[token * hidden], &call.index[token * chosen],
                                             &call.gates[token * chosen]));
          CHECK(worst < 1e-5);
        }
  }
}

TEST_CASE("a token does not depend on the others") {
  for (const auto& [experts, chosen, hidden] : kSizes) {
    const Weights weights(experts, hidden);
    for (const Router& router : routers(weights, experts, chosen, hidden))
      for (const KernelTable& kernels : tested_kernels()) {
        INFO(kernels.instruction_set, ": ", experts, " experts");
        Call together(router, 71);
        together.run(router, kernels);
        for (const std::size_t token : {0, 5, 65, 70}) {
          Call alone(router, 1);
          alone.x.assign(&together.x[token * hidden], &together.x[token * hidden] + hidden);
          alone.run(router, kernels);
          CHECK(std::memcmp(alone.index.data(), &together.index[token * chosen], chosen * sizeof(std::int64_t)) == 0);
          CHECK(std::memcmp(alone.gates.data(), &together.gates[token * chosen], chosen * sizeof(float)) == 0);
        }
      }
  }
}

TEST_CASE("of equal scores the first are chosen") {
  constexpr std::size_t kExperts = 20, kChosen = 6, kHidden = 48;
  Weights weights(kExperts, kHidden);
  // Experts 2 i and 2 i + 1 are equal; then all are.
  for (std::size_t expert = 1; expert < kExperts; expert += 2)
    std::copy_n(&weights.weight[(expert - 1) * kHidden], kHidden, &weights.weight[expert * kHidden]);
  for (const bool all : {false, true}) {
    if (all) std::fill_n(weights.weight.get(), kExperts * kHidden, 0.0f);
    for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSoftmaxOfChosen, RouterScore::kSigmoid})
      for (const KernelTable& kernels : tested_kernels()) {
        INFO(kernels.instruction_set, ", score ", static_cast<int>(score));
        const Router router{kExperts, kChosen, kHidden, weights.weight.get(), nullptr, nullptr, score, true, 0.0f};
        Call call(router, 9);
        call.run(router, kernels);
        for (std::size_t i = 0; i < call.index.size(); i += 2) {
          CHECK(call.index[i] + 1 == call.index[i + 1]);
          CHECK(call.index[i] % 2 == 0);
          CHECK(call.gates[i] == call.gates[i + 1]);
          if (all) CHECK(call.index[i] == static_cast<std::int64_t>(i % kChosen));
        }
      }
  }
}

TEST_CASE("where scores are not numbers, experts are chosen once") {
  constexpr std::size_t kExperts = 20, kChosen = 6, kHidden = 48;
  const Weights weights(kExperts, kHidden);
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const Router& router : routers(weights, kExperts, kChosen, kHidden))
      for (const KernelTable& kernels : tested_kernels()) {
        INFO(kernels.instruction_set);
        Call call(router, 3);
        std::fill_n(&call.x[kHidden], kHidden, value);
        call.run(router, kernels);
        const std::set<std::int64_t> chosen(&call.index[kChosen], &call.index[kChosen] + kChosen);
        CHECK(chosen.size() == kChosen);
        CHECK(*chosen.begin() >= 0);
        CHECK(*chosen.rbegin() < static_cast<std::int64_t>(kExperts));
        CHECK(error_of(router, call.x.data(), call.index.data(), call.gates.data()) < 1e-5);
      }
}
