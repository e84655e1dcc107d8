// Two-pass LM head, against double precision: high nibbles for all columns, whole codes for the candidates near the
// maximum.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr float kMargin = 6.0f;

struct Case {
  std::size_t m, k, n, group;
  bool zero_points;
};

struct Weight {
  std::vector<std::uint8_t> codes, zeros;
  std::vector<float> scales;
};

Weight random_weight(const Case& c, std::mt19937& generator) {
  std::uniform_int_distribution<int> code(0, 255), scale(1, 40);
  Weight weight;
  weight.codes.resize(c.n * c.k);
  weight.zeros.resize(c.n * c.k / c.group, 128);
  weight.scales.resize(weight.zeros.size());
  std::generate(weight.codes.begin(), weight.codes.end(), [&] { return static_cast<std::uint8_t>(code(generator)); });
  if (c.zero_points)
    std::generate(weight.zeros.begin(), weight.zeros.end(), [&] { return static_cast<std::uint8_t>(code(generator)); });
  std::generate(weight.scales.begin(), weight.scales.end(), [&] { return std::ldexp(scale(generator) * 1.0f, -12); });
  return weight;
}

// A logit from the whole codes, and from their high nibbles with 7.5 in place of the low nibbles.
struct Logit {
  double whole = 0.0, high = 0.0, squares = 0.0;
};

Logit logit(const Case& c, const Weight& weight, std::size_t column, const float* a) {
  Logit result;
  for (std::size_t block = 0; block < c.k; block += 32) {
    float largest = 0.0f;
    for (std::size_t k = block; k < block + 32; ++k) largest = std::max(largest, std::fabs(a[k]));
    for (std::size_t k = block; k < block + 32; ++k) {
      const double x = largest == 0.0f ? 0.0 : std::nearbyint(a[k] * (127.0f / largest)) * (largest / 127.0);
      const std::size_t at = column * c.k + k;
      const int code = weight.codes[at];
      const double scale = weight.scales[at / c.group], zero = weight.zeros[at / c.group];
      const double high = scale * (code / 16 * 16 + 7.5 - zero) * x;
      result.high += high;
      result.whole += high + scale * (code % 16 - 7.5) * x;
      result.squares += high * high;
    }
  }
  return result;
}

// The largest error, relative to the root of the terms' sum of squares.
double error_of(const Case& c, edgekiln::TwoPassLmHeadKernel kernel) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  const Weight weight = random_weight(c, generator);
  std::vector<float> a(c.m * c.k);
  std::generate(a.begin(), a.end(), [&] { return normal(generator); });
  std::fill_n(a.begin(), 32, 0.0f);
  const auto a_memory = exactly(a), scales = exactly(weight.scales);
  const auto codes = exactly(weight.codes), zeros = exactly(weight.zeros);
  const auto out = exactly(std::vector<float>(c.m * c.n, NAN));
  edgekiln::MatMulNBitsArgs args{};
  args.k = c.k;
  args.n = c.n;
  args.group_size = c.group;
  args.bits = 8;
  args.codes = codes.get();
  args.scales = scales.get();
  args.zero_points = c.zero_points ? zeros.get() : nullptr;
  const auto lm_head = edgekiln::pack_lm_head(args, kMargin);
  if (!lm_head) return INFINITY;
  edgekiln::Scratch scratch;
  kernel(*lm_head, a_memory.get(), c.m, out.get(), edgekiln::kSerial, scratch);
  double worst = 0.0;
  for (std::size_t token = 0; token < c.m; ++token) {
    std::vector<Logit> logits;
    double largest = -INFINITY;
    for (std::size_t column = 0; column < c.n; ++column) {
      logits.push_back(logit(c, weight, column, &a[token * c.k]));
      largest = std::max(largest, logits.back().high);
    }
    for (std::size_t column = 0; column < c.n; ++column) {
      const Logit& expected = logits[column];
      const double found = out[token * c.n + column], above = expected.high - (largest - kMargin);
      double error = std::abs(found - (above >= 0 ? expected.whole : expected.high));
      // At the margin, either is correct.
      if (std::abs(above) < 1e-3) error = std::min(std::abs(found - expected.whole), std::abs(found - expected.high));
      worst = std::isnan(error) ? INFINITY : std::max(worst, error / std::sqrt(expected.squares));
    }
  }
  return worst;
}

const std::vector<Case> kCases = {{1, 576, 3000, 32, false}, {1, 576, 999, 32, true},   {3, 64, 50, 64, true},
                                  {8, 160, 333, 32, false},  {2, 1536, 200, 128, true}, {1, 32, 1, 32, false},
                                  {7, 384, 777, 128, false}, {5, 2048, 160, 32, true},  {32, 160, 333, 32, false}};

}  // namespace

TEST_CASE("two-pass LM head matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    if (!kernels.two_pass_lm_head) continue;
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.m, " tokens, ", c.k, " x ", c.n);
      CHECK(error_of(c, kernels.two_pass_lm_head) <= kTolerance);
    }
  }
}

TEST_CASE("only 8-bit weights with scales exact in float16 are split") {
  const std::vector<std::uint8_t> codes(64);
  edgekiln::MatMulNBitsArgs args{};
  args.k = args.group_size = 32;
  args.n = 2;
  args.bits = 8;
  args.codes = codes.data();
  // The high nibbles' scale is 16 times as large and must be exact, too: 8192 is not.
  for (const float scale : {0.1f, 8192.0f, 65536.0f}) {
    CAPTURE(scale);
    const std::vector<float> scales{1.0f, scale};
    args.scales = scales.data();
    CHECK_FALSE(edgekiln::pack_lm_head(args, kMargin).has_value());
  }
  const std::vector<float> scales{1.0f, 0.5f};
  args.scales = scales.data();
  CHECK(edgekiln::pack_lm_head(args, kMargin).has_value());
  args.bits = 4;
  CHECK_FALSE(edgekiln::pack_lm_head(args, kMargin).has_value());
}
