// SplitMix64 against published numbers; filters and draws against results computed by hand.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "sampling/exp.h"
#include "sampling/filters.h"
#include "sampling/rng.h"
#include "sampling/sampler.h"

namespace {

using namespace edgekiln;

TEST_CASE("SplitMix64 gives the published numbers") {
  SplitMix64 generator(1234567);
  for (const std::uint64_t expected :
       {6457827717110365317U, 3203168211198807973U, 9817491932198370423U, 4593380528125082431U, 16408922859458223821U})
    CHECK(generator.next() == expected);
  SplitMix64 again(1234567);
  CHECK(again.uniform() == static_cast<double>(6457827717110365317U >> 11) / 9007199254740992.0);
}

TEST_CASE("exp_of_negative is within 2.5 units in the last place") {
  std::vector<float> values;
  for (float x = 0; x > -103.9F; x -= 0.0137F) values.push_back(x);
  values.insert(values.end(), {-0.0F, -104.0F, -1e30F, -std::numeric_limits<float>::infinity()});
  std::vector<float> results = values;
  exp_of_negative(results);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double exact = std::exp(static_cast<double>(values[i]));
    const double unit = std::max(exact * 0x1p-23, 0x1p-149);
    REQUIRE(std::abs(static_cast<double>(results[i]) - exact) <= 2.5 * unit);
  }
  CHECK(results[0] == 1.0F);
}

TEST_CASE("filters keep tied scores") {
  const std::vector<float> scores{1, 5, 5, 0, 5};
  CHECK((top_k(scores, 2) == Indices{1, 2, 4}));
  CHECK((top_k(scores, 4) == Indices{0, 1, 2, 4}));
  CHECK((top_k(scores, 9) == Indices{0, 1, 2, 3, 4}));
  CHECK((top_p(scores, 0.5) == Indices{1, 2, 4}));
  CHECK((min_p(scores, 1.0) == Indices{1, 2, 4}));
}

TEST_CASE("pick is proportional to the weights") {
  std::vector<float> weights(1000, 0.0F);
  weights[3] = 1;
  weights[700] = 2;
  weights[999] = 1;
  CHECK(pick(weights, 0.0) == 3);
  CHECK(pick(weights, 0.2499) == 3);
  CHECK(pick(weights, 0.25) == 700);
  CHECK(pick(weights, 0.7499) == 700);
  CHECK(pick(weights, 0.75) == 999);
  CHECK(pick(weights, 1.0 - 0x1p-53) == 999);
}

TEST_CASE("the repetition penalty changes the greedy choice") {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler sampler(options);
  const std::vector<std::int64_t> prompt{1};
  sampler.observe(prompt);
  const std::vector<float> logits{1.5F, 2.0F, -1.0F, 1.25F};
  CHECK(sampler.sample(logits, false).value().token == 0);
  CHECK(sampler.sample(logits, false).value().token == 3);
  const std::vector<float> negative{-2.0F, -2.5F, -1.5F, -3.0F};
  const Choice choice = sampler.sample(negative, true).value();
  CHECK(choice.token == 2);
  double total = 0;
  for (const float logit : negative) total += std::exp(static_cast<double>(logit));
  CHECK(std::abs(*choice.logprob - (-1.5 - std::log(total))) < 1e-6);
}

TEST_CASE("broken logits are an error") {
  Sampler sampler({});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const auto result = sampler.sample(std::vector<float>{0, bad, 1}, false);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Code::kRuntime);
  }
}

TEST_CASE("any temperature divides logits") {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{1e6F, 3, -infinity, -3e38F};
  for (const double small : {1e-6, 1e-37, 1e-300, 5e-324}) {
    SamplingOptions options;
    options.temperature = small;
    options.top_p = 0;
    CHECK(options.check());
    CHECK(Sampler(options).sample(logits, false).value().token == 0);
  }
  SamplingOptions options;
  options.temperature = 1e308;
  options.seed = 0;
  Sampler sampler(options);
  for (int i = 0; i < 20; ++i) CHECK(sampler.sample(logits, false).value().token != 2);
}

TEST_CASE("options out of range are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {-1.0, -5e-324, nan, std::numeric_limits<double>::infinity()}) {
    SamplingOptions options;
    options.temperature = bad;
    CHECK_FALSE(options.check());
  }
  SamplingOptions options;
  options.top_p = 2;
  CHECK(options.check().error().message == "top_p must be in [0, 1], got 2.0");
  options = {};
  options.min_p = nan;
  CHECK(options.check().error().code == Code::kRequest);
  options = {};
  options.top_k = -1;
  CHECK_FALSE(options.check());
  options = {};
  options.repetition_penalty = 0;
  CHECK_FALSE(options.check());
  CHECK(SamplingOptions{}.check());
}

}  // namespace
