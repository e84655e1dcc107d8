// Every kernel that this processor runs, against products in double precision: all columns with the upper halves of
// codes, and those near the largest with whole codes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr float kMargin = 6.0f;

struct Case {
  std::size_t rows, depth, columns, group;
  bool zero_points;
};

struct Weight {
  std::vector<std::uint8_t> codes, zeros;
  std::vector<float> scales;
};

Weight random_weight(const Case& c, std::mt19937& generator) {
  std::uniform_int_distribution<int> code(0, 255), scale(1, 40);
  Weight weight;
  weight.codes.resize(c.columns * c.depth);
  weight.zeros.resize(c.columns * c.depth / c.group, 128);
  weight.scales.resize(weight.zeros.size());
  std::generate(weight.codes.begin(), weight.codes.end(), [&] { return static_cast<std::uint8_t>(code(generator)); });
  if (c.zero_points)
    std::generate(weight.zeros.begin(), weight.zeros.end(), [&] { return static_cast<std::uint8_t>(code(generator)); });
  std::generate(weight.scales.begin(), weight.scales.end(), [&] { return std::ldexp(scale(generator) * 1.0f, -12); });
  return weight;
}

// Of one row of activations with one column, by whole codes and by their upper halves.
struct Product {
  double whole = 0.0, upper = 0.0, squares = 0.0;
};

Product product(const Case& c, const Weight& weight, std::size_t column, const float* a) {
  Product result;
  for (std::size_t block = 0; block < c.depth; block += 32) {
    float largest = 0.0f;
    for (std::size_t k = block; k < block + 32; ++k) largest = std::max(largest, std::fabs(a[k]));
    for (std::size_t k = block; k < block + 32; ++k) {
      const double x = largest == 0.0f ? 0.0 : std::nearbyint(a[k] * (127.0f / largest)) * (largest / 127.0);
      const std::size_t at = column * c.depth + k;
      const int code = weight.codes[at];
      const double scale = weight.scales[at / c.group], zero = weight.zeros[at / c.group];
      const double upper = scale * (code / 16 * 16 + 7.5 - zero) * x;
      result.upper += upper;
      result.whole += upper + scale * (code % 16 - 7.5) * x;
      result.squares += upper * upper;
    }
  }
  return result;
}

// The largest error, relative to the size of the terms that were summed.
double error_of(const Case& c, edgekiln::ShortlistKernel kernel) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  const Weight weight = random_weight(c, generator);
  std::vector<float> a(c.rows * c.depth);
  std::generate(a.begin(), a.end(), [&] { return normal(generator); });
  std::fill_n(a.begin(), 32, 0.0f);
  const auto a_memory = exactly(a), scales = exactly(weight.scales);
  const auto codes = exactly(weight.codes), zeros = exactly(weight.zeros);
  const auto out = exactly(std::vector<float>(c.rows * c.columns, NAN));
  edgekiln::MatMulNBitsCall call{};
  call.depth = c.depth;
  call.columns = c.columns;
  call.group = c.group;
  call.bits = 8;
  call.codes = codes.get();
  call.scales = scales.get();
  call.zero_points = c.zero_points ? zeros.get() : nullptr;
  const auto shortlist = edgekiln::shortlist_of(call, kMargin);
  if (!shortlist) return INFINITY;
  edgekiln::Scratch scratch;
  kernel(*shortlist, a_memory.get(), c.rows, out.get(), edgekiln::kSerial, scratch);
  double worst = 0.0;
  for (std::size_t row = 0; row < c.rows; ++row) {
    std::vector<Product> products;
    double largest = -INFINITY;
    for (std::size_t column = 0; column < c.columns; ++column) {
      products.push_back(product(c, weight, column, &a[row * c.depth]));
      largest = std::max(largest, products.back().upper);
    }
    for (std::size_t column = 0; column < c.columns; ++column) {
      const Product& expected = products[column];
      const double found = out[row * c.columns + column], above = expected.upper - (largest - kMargin);
      double error = std::abs(found - (above >= 0 ? expected.whole : expected.upper));
      // At the margin it may be either.
      if (std::abs(above) < 1e-3) error = std::min(std::abs(found - expected.whole), std::abs(found - expected.upper));
      worst = std::isnan(error) ? INFINITY : std::max(worst, error / std::sqrt(expected.squares));
    }
  }
  return worst;
}

// Scales that binary16 does not hold, also 16 times as large, and other bits are not parted.
int wrongly_parted() {
  const std::vector<std::uint8_t> codes(64);
  edgekiln::MatMulNBitsCall call{};
  call.depth = call.group = 32;
  call.columns = 2;
  call.bits = 8;
  call.codes = codes.data();
  int wrong = 0;
  for (const float scale : {0.1f, 8192.0f, 65536.0f}) {
    const std::vector<float> scales{1.0f, scale};
    call.scales = scales.data();
    wrong += edgekiln::shortlist_of(call, kMargin).has_value();
  }
  const std::vector<float> scales{1.0f, 0.5f};
  call.scales = scales.data();
  wrong += !edgekiln::shortlist_of(call, kMargin);
  call.bits = 4;
  return wrong + edgekiln::shortlist_of(call, kMargin).has_value();
}

}  // namespace

int main() {
  const std::vector<Case> cases = {{1, 576, 3000, 32, false}, {1, 576, 999, 32, true},   {3, 64, 50, 64, true},
                                   {8, 160, 333, 32, false},  {2, 1536, 200, 128, true}, {1, 32, 1, 32, false},
                                   {7, 384, 777, 128, false}, {5, 2048, 160, 32, true}};
  int failures = wrongly_parted();
  if (failures) std::printf("%d weights are wrongly parted\n", failures);
  for (const edgekiln::Kernels& kernels : tested_kernels()) {
    if (!kernels.shortlist) continue;
    for (const Case& c : cases) {
      const double error = error_of(c, kernels.shortlist);
      if (error <= kTolerance) continue;
      std::printf("%s: %zu rows, %zu x %zu: off by %g\n", kernels.instruction_set, c.rows, c.depth, c.columns, error);
      ++failures;
    }
    std::printf("%s: %zu cases\n", kernels.instruction_set, cases.size());
  }
  return failures != 0;
}
