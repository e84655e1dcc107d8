// Linear attention against its definition in double precision, token by token.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "recurrence_testing.h"
#include "tested_kernels.h"

namespace {

using edgekiln::LinearAttentionArgs;
using edgekiln::UpdateFactor;

constexpr std::size_t kLine = 16;  // floats

struct Case {
  std::string name;
  std::size_t batch, length, heads, key_heads, key_dim, value_dim;
  bool delta, decay, decay_by_row, raw_step, normed, skip;
  UpdateFactor factor;
};

struct Inputs {
  explicit Inputs(const Case& c)
      : query(random_floats(c.batch * c.length * c.key_heads * c.key_dim, 1)),
        key(random_floats(query.size(), 2, 0.3f)),
        value(random_floats(c.batch * c.length * c.heads * c.value_dim, 3)),
        past(random_floats(c.batch * c.heads * c.key_dim * c.value_dim, 4)),
        decay(random_floats(c.batch * c.length * c.heads * (c.decay_by_row ? c.key_dim : 1), 5)),
        beta(random_floats(c.batch * c.length * c.heads, 6)),
        a(random_floats(c.heads, 7)),
        bias(random_floats(c.heads, 8)),
        skip(random_floats(c.heads, 9)) {
    if (!c.raw_step)
      for (float& each : decay) each = -std::abs(each);
    for (float& each : a) each = -std::abs(each);
  }

  LinearAttentionArgs args(const Case& c) const {
    LinearAttentionArgs args{};
    args.batch = c.batch;
    args.length = c.length;
    args.heads = c.heads;
    args.key_dim = c.key_dim;
    args.value_dim = c.value_dim;
    args.key_heads = c.key_heads;
    args.query = query.data();
    args.key = key.data();
    args.value = value.data();
    args.past = past.data();
    args.scale = 0.7f;
    args.delta = c.delta;
    args.decay = c.decay ? decay.data() : nullptr;
    args.decay_by_row = c.decay_by_row;
    args.a = c.raw_step ? a.data() : nullptr;
    args.dt_bias = bias.data();
    args.least_step = 0.1f;
    args.most_step = 1.5f;
    args.factor = c.factor;
    args.beta = beta.data();
    args.skip = c.skip ? skip.data() : nullptr;
    args.norm_epsilon = c.normed ? 1e-6f : 0.0f;
    return args;
  }

  std::vector<float> query, key, value, past, decay, beta, a, bias, skip;
};

// x divided by its length.
std::vector<double> unit(const float* x, std::size_t count, float epsilon) {
  double sum = epsilon;
  for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  std::vector<double> found(x, x + count);
  if (epsilon > 0)
    for (double& each : found) each /= std::sqrt(sum);
  return found;
}

// The output and the state after it, of one head.
void expect_head(const LinearAttentionArgs& args, std::size_t sequence, std::size_t head, std::vector<double>& out,
                 std::vector<double>& state) {
  const std::size_t rows = args.key_dim, columns = args.value_dim;
  for (std::size_t token = 0; token < args.length; ++token) {
    const std::size_t at = sequence * args.length + token, of_head = at * args.heads + head;
    const std::size_t of_key = (at * args.key_heads + head * args.key_heads / args.heads) * rows;
    const std::vector<double> k = unit(args.key + of_key, rows, args.norm_epsilon),
                              q = unit(args.query + of_key, rows, args.norm_epsilon);
    double step = 1.0;
    if (args.a) {
      step = std::log1p(std::exp(static_cast<double>(args.decay[of_head]) + args.dt_bias[head]));
      step = std::min<double>(std::max<double>(step, args.least_step), args.most_step);
    }
    const double beta = args.beta[of_head];
    const double factor = args.factor == UpdateFactor::kOne    ? 1.0
                          : args.factor == UpdateFactor::kBeta ? beta
                          : args.factor == UpdateFactor::kStep ? step
                                                               : 1.0 / (1.0 + std::exp(-beta));
    for (std::size_t j = 0; j < columns; ++j) {
      double known = 0.0, read = 0.0;
      for (std::size_t i = 0; i < rows; ++i) {
        double decay = 0.0;
        if (args.decay)
          decay = args.a              ? step * args.a[head]
                  : args.decay_by_row ? args.decay[of_head * rows + i]
                                      : args.decay[of_head];
        state[i * columns + j] *= std::exp(decay);
        known += k[i] * state[i * columns + j];
      }
      const double value = args.value[of_head * columns + j], added = factor * (args.delta ? value - known : value);
      for (std::size_t i = 0; i < rows; ++i) {
        state[i * columns + j] += k[i] * added;
        read += q[i] * state[i * columns + j];
      }
      out[of_head * columns + j] = args.scale * read + (args.skip ? args.skip[head] * value : 0.0);
    }
  }
}

const std::vector<Case> kCases = {
    {"linear", 2, 5, 2, 2, 16, 32, false, false, false, false, false, false, UpdateFactor::kOne},
    {"gated by row", 1, 7, 4, 2, 33, 24, false, true, true, false, false, false, UpdateFactor::kOne},
    {"delta", 1, 4, 2, 1, 8, 100, true, false, false, false, false, false, UpdateFactor::kBeta},
    {"Mamba-2", 2, 9, 6, 2, 128, 64, false, true, false, true, false, true, UpdateFactor::kStep},
    {"Gated DeltaNet", 2, 9, 4, 4, 128, 128, true, true, false, true, true, false, UpdateFactor::kSigmoid},
    {"one token", 1, 1, 3, 1, 256, 70, true, true, true, false, true, false, UpdateFactor::kBeta},
    {"blocks of Mamba-2", 2, 21, 6, 2, 128, 64, false, true, false, true, false, true, UpdateFactor::kStep},
    {"blocks of Gated DeltaNet", 1, 32, 4, 2, 128, 70, true, true, false, true, true, false, UpdateFactor::kSigmoid},
    {"blocks of the delta rule", 1, 17, 2, 1, 8, 100, true, false, false, false, true, false, UpdateFactor::kBeta},
    {"blocks without decay", 1, 16, 3, 3, 33, 24, false, false, false, false, false, false, UpdateFactor::kOne},
    {"many tokens by row", 1, 20, 2, 1, 16, 16, false, true, true, false, false, false, UpdateFactor::kOne},
    {"a state past the caches", 1, 3, 16, 1, 128, 64, false, true, false, true, false, true, UpdateFactor::kStep},
    {"the same by the delta rule", 1, 1, 8, 8, 128, 128, true, true, false, true, true, false, UpdateFactor::kSigmoid},
    {"narrow", 1, 3, 5, 5, 1, 1, false, true, false, false, false, false, UpdateFactor::kOne},
};

}  // namespace

TEST_CASE("linear attention matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.name);
      const Inputs inputs(c);
      LinearAttentionArgs args = inputs.args(c);
      std::vector<float> out(inputs.value.size(), NAN), memory(inputs.past.size() + kLine);
      // Only aligned states go past the caches.
      void* start = memory.data();
      std::size_t space = memory.size() * sizeof(float);
      args.out = out.data();
      args.present =
          static_cast<float*>(std::align(kLine * sizeof(float), inputs.past.size() * sizeof(float), start, space));
      kernels.linear_attention(args, kLastToFirst);
      const std::vector<float> present(args.present, args.present + inputs.past.size());
      std::vector<double> expected(out.size()), states;
      for (std::size_t head = 0; head < c.batch * c.heads; ++head) {
        const auto from = inputs.past.begin() + static_cast<std::ptrdiff_t>(head * c.key_dim * c.value_dim);
        std::vector<double> state(from, from + static_cast<std::ptrdiff_t>(c.key_dim * c.value_dim));
        expect_head(args, head / c.heads, head % c.heads, expected, state);
        states.insert(states.end(), state.begin(), state.end());
      }
      CHECK(largest_error(out, expected) <= 2e-5);
      CHECK(largest_error(present, states) <= 2e-5);
    }
  }
}

TEST_CASE("tokens have the bits that they have alone") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (Case c : kCases) {
      if (c.batch != 1 || (c.length >= 16 && !c.decay_by_row)) continue;
      INFO(kernels.instruction_set, ": ", c.name);
      const Inputs inputs(c);
      LinearAttentionArgs args = inputs.args(c);
      std::vector<float> out(inputs.value.size()), present(inputs.past.size()), alone(out.size()), past = inputs.past;
      args.out = out.data();
      args.present = present.data();
      kernels.linear_attention(args, edgekiln::kSerial);
      const std::size_t keys = c.key_heads * c.key_dim, decays = c.heads * (c.decay_by_row ? c.key_dim : 1);
      for (std::size_t token = 0; token < c.length; ++token) {
        LinearAttentionArgs one = args;
        std::vector<float> next(past.size());
        one.length = 1;
        one.query += token * keys;
        one.key += token * keys;
        one.value += token * c.heads * c.value_dim;
        if (one.decay) one.decay += token * decays;
        one.beta += token * c.heads;
        one.past = past.data();
        one.present = next.data();
        one.out = alone.data() + token * c.heads * c.value_dim;
        kernels.linear_attention(one, edgekiln::kSerial);
        past = next;
      }
      CHECK(alone == out);
      CHECK(past == present);
    }
  }
}
