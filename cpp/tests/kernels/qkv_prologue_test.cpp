// QKV prologue: biases and RMS norms of heads, against double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

struct Case {
  std::size_t tokens, heads, kv_heads, head_dim;
  bool biased, normed, in_place;
};

double error_of(const Case& c, edgekiln::QkvPrologueKernel kernel) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const auto random_floats = [&](std::size_t count) {
    std::vector<float> values(count);
    std::generate(values.begin(), values.end(), [&] { return normal(generator); });
    return values;
  };
  edgekiln::QkvPrologueArgs args{};
  args.tokens = c.tokens;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.epsilon = 1e-3f;
  const std::size_t width = args.width();
  const std::vector<float> values = random_floats(c.tokens * width), bias = random_floats(width);
  const std::vector<float> gammas[2] = {random_floats(c.head_dim), random_floats(c.head_dim)};
  const auto from = exactly(values), bias_memory = exactly(bias);
  const auto to = exactly(std::vector<float>(values.size(), NAN));
  const auto queries = exactly(gammas[0]), keys = exactly(gammas[1]);
  args.from = from.get();
  args.to = c.in_place ? from.get() : to.get();
  if (c.biased) args.bias = bias_memory.get();
  if (c.normed) {
    args.gammas[0] = queries.get();
    args.gammas[1] = keys.get();
  }
  kernel(args, edgekiln::kSerial);
  double worst = 0.0;
  for (std::size_t at = 0; at < values.size(); at += c.head_dim) {
    const std::size_t head = at / c.head_dim % (c.heads + 2 * c.kv_heads);
    std::vector<double> expected(values.begin() + at, values.begin() + at + c.head_dim);
    double squares = 0.0;
    for (std::size_t i = 0; i < c.head_dim; ++i) {
      if (c.biased) expected[i] += bias[head * c.head_dim + i];
      squares += expected[i] * expected[i];
    }
    for (std::size_t i = 0; i < c.head_dim; ++i) {
      if (c.normed && head < c.heads + c.kv_heads)
        expected[i] *= gammas[head >= c.heads][i] / std::sqrt(squares / c.head_dim + 1e-3);
      const double error = std::abs(args.to[at + i] - expected[i]);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

const std::vector<Case> kCases = {{1, 9, 3, 64, true, false, false},
                                  {3, 4, 2, 40, false, true, true},
                                  {40, 16, 8, 128, false, true, false},
                                  {7, 2, 1, 9, true, true, false},
                                  {2, 1, 1, 8, true, true, true}};

}  // namespace

TEST_CASE("QKV prologue matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.tokens, " tokens of ", c.heads, " x ", c.head_dim);
      CHECK(error_of(c, kernels.qkv_prologue) <= 1e-5);
    }
  }
}
