// Every kernel that this processor runs, against the product with the float weight written out in double precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels/float16_scales.h"
#include "tested_kernels.h"
#include "testing.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr double kPromptTolerance = 1e-3;  // a weight that lies between two steps may go to either

struct Case {
  std::string name;
  std::size_t rows, depth, columns, group;
  int bits;
  bool zero_points, offsets = false, half = false;
};

using Doubles = std::vector<double>;

std::vector<std::uint8_t> packed(const std::vector<std::uint8_t>& codes, std::size_t width, int bits) {
  if (bits == 8) return codes;
  std::vector<std::uint8_t> bytes(codes.size() / width * ((width + 1) / 2));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::size_t line = i / width, at = i % width;
    bytes[line * ((width + 1) / 2) + at / 2] |= codes[i] << at % 2 * 4;
  }
  return bytes;
}

// Each block of 32 rounded to 127 steps of its largest element.
std::vector<float> quantized(std::vector<float> values) {
  for (std::size_t start = 0; start < values.size(); start += 32) {
    float largest = 0.0f;
    for (std::size_t i = start; i < start + 32; ++i) largest = std::max(largest, std::fabs(values[i]));
    if (largest == 0.0f) continue;
    for (std::size_t i = start; i < start + 32; ++i)
      values[i] = std::nearbyint(values[i] * (127.0f / largest)) * (largest / 127.0f);
  }
  return values;
}

// In bfloat16, which has 8 bits.
template <typename Values, typename Round>
Values rounded(Values values, const Round& round) {
  for (auto& value : values) {
    int exponent;
    const auto fraction = std::frexp(value, &exponent);
    value = std::ldexp(round(fraction * 256), exponent - 8);
  }
  return values;
}

// Weights [columns, depth] as prompts multiply them: 256ths of a step are whole numbers, so are steps.
void widen(const Case& c, std::vector<double>& weights, const std::vector<float>& scales,
           const std::vector<float>& zeros, const std::vector<std::uint8_t>& codes) {
  const std::size_t groups = c.depth / c.group, groups_a_segment = edgekiln::kSegment / c.group;
  for (std::size_t column = 0; column < c.columns; ++column) {
    for (std::size_t first = 0; first < groups; first += groups_a_segment) {
      const std::size_t begin = column * groups + first,
                        end = column * groups + std::min(first + groups_a_segment, groups);
      float most = 0.0f;
      for (std::size_t i = begin; i < end; ++i)
        most = std::max({most, std::fabs(zeros[i]), std::fabs(zeros[i] + 15.0f * scales[i])});
      const float step = most / 127.0f;
      for (std::size_t i = begin; i < end; ++i) {
        const double factor = std::nearbyint(scales[i] * (256.0f / step)),
                     zero = std::nearbyint(zeros[i] * (256.0f / step));
        for (std::size_t at = i * c.group; at < (i + 1) * c.group; ++at)
          weights[at] = step * std::floor((codes[at] * factor + zero + 128.0) / 256.0);
      }
    }
  }
}

// The largest error, relative to the size of the terms that were summed; by the kernel for panels if there is one.
double error_of(const Case& c, edgekiln::MatMulNBitsKernel kernel, edgekiln::CodePanelsKernel of_panels,
                bool rounded_prompts) {
  std::mt19937 generator(11);
  const std::size_t groups = c.depth / c.group;
  std::uniform_int_distribution<int> code(0, (1 << c.bits) - 1);
  std::normal_distribution<float> normal;
  const auto codes_of = [&](std::size_t count) {
    std::vector<std::uint8_t> codes(count);
    std::generate(codes.begin(), codes.end(), [&] { return static_cast<std::uint8_t>(code(generator)); });
    return codes;
  };
  const auto codes = codes_of(c.columns * c.depth), zeros = codes_of(c.columns * groups);
  std::vector<float> scales(c.columns * groups), a(c.rows * c.depth);
  std::generate(scales.begin(), scales.end(), [&] { return 0.01f + 0.02f * std::fabs(normal(generator)); });
  std::generate(a.begin(), a.end(), [&] { return normal(generator); });
  std::vector<float> offsets(scales.size(), 0.0f);
  if (c.offsets) std::generate(offsets.begin(), offsets.end(), [&] { return 0.05f * normal(generator); });
  const auto middle = static_cast<float>(1 << (c.bits - 1));
  edgekiln::HalfScales half;
  if (c.half) {
    std::transform(scales.begin(), scales.end(), scales.begin(), edgekiln::rounded_to_half);
    for (std::size_t i = 0; c.offsets && i < offsets.size(); ++i)
      offsets[i] = edgekiln::rounded_to_half(offsets[i] - middle * scales[i]) + middle * scales[i];
    half = {scales.data(), c.offsets ? offsets.data() : nullptr, scales.size(), 1 << (c.bits - 1)};
    if (!half.scales() || !half.minima() != !c.offsets) return INFINITY;
  }
  // A row with one large element, and a block of zeros.
  a[c.depth / 2] = 60.0f;
  if (c.depth > 64) std::fill_n(a.begin(), 32, 0.0f);

  const auto code_bytes = exactly(packed(codes, c.depth, c.bits)), zero_bytes = exactly(packed(zeros, groups, c.bits));
  const auto scale_memory = exactly(scales), offset_memory = exactly(offsets), a_memory = exactly(a);
  const auto out = exactly(std::vector<float>(c.rows * c.columns, NAN));
  const edgekiln::MatMulNBitsCall call{c.rows,
                                       c.depth,
                                       c.columns,
                                       c.group,
                                       c.bits,
                                       a_memory.get(),
                                       code_bytes.get(),
                                       scale_memory.get(),
                                       c.zero_points ? zero_bytes.get() : nullptr,
                                       out.get(),
                                       c.offsets ? offset_memory.get() : nullptr,
                                       half.scales(),
                                       half.minima()};
  edgekiln::Scratch scratch;
  if (of_panels) {
    of_panels(edgekiln::panels_of(call), call.a, call.rows, call.out, edgekiln::kSerial, scratch);
  } else {
    kernel(call, edgekiln::kSerial, scratch);
  }

  // Weights as code 0's and a scale times the code.
  std::vector<float> of_zero(scales.size());
  std::vector<double> weights(codes.size());
  for (std::size_t i = 0; i < scales.size(); ++i)
    of_zero[i] = offsets[i] - scales[i] * static_cast<float>(c.zero_points ? zeros[i] : 1 << (c.bits - 1));
  for (std::size_t i = 0; i < codes.size(); ++i)
    weights[i] = scales[i / c.group] * codes[i] + static_cast<double>(of_zero[i / c.group]);
  // The offsets' part takes activations as they came.
  const bool prompt = of_panels && c.bits == 4 && c.rows >= edgekiln::kPromptRows;
  const std::vector<float> exact = a;
  if (prompt && rounded_prompts) {
    a = rounded(a, [](float x) { return std::nearbyint(x); });
    weights = rounded(weights, [](double x) { return std::round(x); });
  } else if ((of_panels && c.bits == 4) || c.rows <= edgekiln::kQuantizedRows) {
    a = quantized(a);
    if (prompt) widen(c, weights, scales, of_zero, codes);
  }
  double worst = 0.0;
  for (std::size_t row = 0; row < c.rows; ++row) {
    for (std::size_t column = 0; column < c.columns; ++column) {
      double sum = 0.0, squares = 0.0;
      for (std::size_t k = 0; k < c.depth; ++k) {
        const std::size_t at = column * c.depth + k;
        double term = a[row * c.depth + k] * weights[at];
        if (!prompt) term += (exact[row * c.depth + k] - a[row * c.depth + k]) * offsets[at / c.group];
        sum += term;
        squares += term * term;
      }
      const double error = std::abs(out[row * c.columns + column] - sum) / std::sqrt(squares);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

// How many of all binary16 numbers and of the floats beside them `exactly_half` takes for something else.
int wrong_halves() {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const std::uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) continue;
    const float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(1.0f * fraction, -24);
    const float value = bits & 0x8000 ? -size : size;
    const auto found = edgekiln::exactly_half(value);
    wrong += !found || found->bits != bits;
    wrong += edgekiln::exactly_half(std::nextafter(value, INFINITY)).has_value();
    wrong += exponent && edgekiln::rounded_to_half(value * 1.0001f) != value;
  }
  return wrong + edgekiln::exactly_half(65536.0f).has_value() + edgekiln::exactly_half(NAN).has_value();
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one row, 4 bits", 1, 576, 96, 32, 4, true},
      {"one row, 8 bits", 1, 576, 96, 32, 8, true},
      {"no zero points, 4 bits", 1, 576, 96, 32, 4, false},
      {"no zero points, 8 bits", 1, 576, 96, 32, 8, false},
      {"groups of 64", 1, 576, 50, 64, 4, true},
      {"groups of 128", 1, 1536, 50, 128, 4, true},
      {"groups of 64, 8 bits", 1, 576, 50, 64, 8, true},
      {"groups of 128, 8 bits", 1, 1536, 50, 128, 8, true},
      {"the smallest", 1, 32, 1, 32, 4, true},
      {"the smallest, 8 bits", 1, 32, 1, 32, 8, true},
      {"an odd number of groups", 1, 160, 33, 32, 4, true},
      {"wide", 1, 4096, 17, 32, 4, true},
      {"a few rows", 5, 576, 100, 32, 4, true},
      {"as many as are few", 8, 576, 100, 32, 4, true},
      {"as many as are few, half scales and offsets", 7, 160, 33, 32, 4, false, true, true},
      {"a few rows, 8 bits", 8, 96, 40, 32, 8, true},
      {"many rows", 12, 576, 192, 32, 4, true},
      {"a prompt, zero points", 104, 576, 192, 32, 4, true},
      {"a prompt, offsets", 97, 160, 50, 32, 4, false, true},
      {"a prompt, half scales and offsets", 101, 576, 40, 64, 4, false, true, true},
      {"a prompt, no zero points", 134, 384, 100, 128, 4, false},
      {"many rows, 8 bits", 9, 160, 64, 32, 8, true},
      {"many rows, columns that do not fill a panel", 23, 256, 100, 64, 4, true},
      {"many rows, no zero points, deep", 21, 1536, 130, 128, 4, false},
      {"many rows, offsets, an odd number of groups", 13, 160, 33, 32, 4, false, true},
      {"many rows, offsets, 8 bits", 19, 288, 64, 32, 8, false, true},
      {"many rows, no zero points", 12, 128, 70, 128, 4, false},
      {"offsets", 1, 576, 96, 32, 4, false, true},
      {"offsets, an odd number of groups", 3, 160, 33, 32, 4, false, true},
      {"offsets, 8 bits", 2, 576, 50, 64, 8, false, true},
      {"offsets, many rows", 23, 256, 100, 64, 4, false, true},
      {"many rows, fewer columns than a vector", 12, 64, 3, 32, 8, false},
      {"half scales", 1, 576, 96, 32, 4, false, false, true},
      {"half scales, 8 bits, an odd number of groups", 2, 160, 33, 32, 8, false, false, true},
      {"half scales and zero points", 1, 576, 50, 64, 4, true, false, true},
      {"half scales and offsets", 1, 576, 96, 32, 4, false, true, true},
      {"half scales and offsets, 8 bits", 3, 288, 33, 32, 8, false, true, true},
      {"half scales and offsets, many rows", 23, 256, 100, 64, 4, false, true, true},
  };
  int failures = wrong_halves();
  if (failures) std::printf("%d numbers are wrong in binary16\n", failures);
  for (const edgekiln::Kernels& kernels : tested_kernels()) {
    for (const Case& c : cases) {
      for (const auto of_panels : {edgekiln::CodePanelsKernel{}, kernels.code_panels}) {
        const double error = error_of(c, kernels.matmul_n_bits, of_panels, rounds_prompts(kernels));
        const bool prompt = of_panels && c.bits == 4 && c.rows >= edgekiln::kPromptRows;
        if (error <= (prompt ? kPromptTolerance : kTolerance)) continue;
        std::printf("%s: %s%s: off by %g\n", kernels.instruction_set, c.name.c_str(), of_panels ? ", panels" : "",
                    error);
        ++failures;
      }
    }
    std::printf("%s: %zu cases\n", kernels.instruction_set, cases.size());
  }
  return failures != 0;
}
