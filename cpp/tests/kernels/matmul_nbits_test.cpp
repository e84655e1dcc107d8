// Matrix multiplication with 4-bit and 8-bit weights, packed and unpacked, against double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/pack/float16_group_params.h"
#include "nbits_reference.h"
#include "tested_kernels.h"
#include "testing.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr double kPrefillTolerance = 1e-3;  // a weight halfway between two steps may round to either

// The largest error of `packed_kernel` or, if that is null, of `kernel`, relative to the root of the terms' sum of
// squares.
double error_of(const NBitsCase& c, edgekiln::MatMulNBitsKernel kernel, edgekiln::NBitsGemmKernel packed_kernel,
                bool prefill, bool bf16_prefill, std::size_t prefill_block) {
  std::mt19937 generator(11);
  const std::size_t groups = c.k / c.group;
  const int smallest = c.six_bits ? 96 : 0, largest = c.six_bits ? 159 : (1 << c.bits) - 1;
  std::uniform_int_distribution<int> code(smallest, largest);
  std::normal_distribution<float> normal;
  const auto codes_of = [&](std::size_t count) {
    std::vector<std::uint8_t> codes(count);
    std::generate(codes.begin(), codes.end(), [&] {
      const int value = code(generator);
      return static_cast<std::uint8_t>(!c.extreme                                    ? value
                                       : value > smallest + (largest - smallest) / 4 ? largest
                                                                                     : smallest);
    });
    return codes;
  };
  const auto codes = codes_of(c.n * c.k), zeros = codes_of(c.n * groups);
  std::vector<float> scales(c.n * groups), a(c.m * c.k);
  std::generate(scales.begin(), scales.end(), [&] { return 0.01f + 0.02f * std::fabs(normal(generator)); });
  for (std::size_t i = 0; c.factored && i < scales.size(); ++i) {
    const std::size_t first = i / groups * groups + i % groups / 16 * 16;  // its multiple is 1
    const float factor = edgekiln::round_to_float16((first % 2 ? -1e-4f : 1e-4f) * (1.0f + scales[first]));
    const int multiple = i == first ? 1 : static_cast<int>(generator() % 256) - 128;
    if (i != first) scales[i] = factor * static_cast<float>(multiple);
    if (i + 1 == scales.size() || (i + 1) % groups == 0 || (i + 1) % groups % 16 == 0) scales[first] = factor;
  }
  std::generate(a.begin(), a.end(), [&] {
    const float value = normal(generator);
    return !c.extreme ? value : value > -1.0f ? 1.0f : -1.0f;
  });
  std::vector<float> group_bias(scales.size(), 0.0f);
  if (c.group_bias) std::generate(group_bias.begin(), group_bias.end(), [&] { return 0.05f * normal(generator); });
  const auto midpoint = static_cast<float>(1 << (c.bits - 1));
  edgekiln::Float16GroupParams float16_params;
  if (c.float16) {
    std::transform(scales.begin(), scales.end(), scales.begin(), edgekiln::round_to_float16);
    for (std::size_t i = 0; c.group_bias && i < group_bias.size(); ++i)
      group_bias[i] = edgekiln::round_to_float16(group_bias[i] - midpoint * scales[i]) + midpoint * scales[i];
    float16_params = {scales.data(), c.group_bias ? group_bias.data() : nullptr, scales.size(), 1 << (c.bits - 1)};
    if (!float16_params.scales() || !float16_params.mins() != !c.group_bias) return INFINITY;
  }
  // An outlier, and a block of zeros.
  a[c.k / 2] = 60.0f;
  if (c.k > 64) std::fill_n(a.begin(), 32, 0.0f);

  const auto code_bytes = exactly(packed(codes, c.k, c.bits)), zero_bytes = exactly(packed(zeros, groups, c.bits));
  const auto scale_memory = exactly(scales), bias_memory = exactly(group_bias), a_memory = exactly(a);
  const auto out = exactly(std::vector<float>(c.m * c.n, NAN));
  const edgekiln::MatMulNBitsArgs args{c.m,
                                       c.k,
                                       c.n,
                                       c.group,
                                       c.bits,
                                       a_memory.get(),
                                       code_bytes.get(),
                                       scale_memory.get(),
                                       c.zero_points ? zero_bytes.get() : nullptr,
                                       out.get(),
                                       c.group_bias ? bias_memory.get() : nullptr,
                                       float16_params.scales(),
                                       float16_params.mins(),
                                       c.codebook};
  edgekiln::Scratch scratch;
  if (packed_kernel) {
    const edgekiln::PackedNBits weight = edgekiln::pack_nbits(args);
    if (weight.bits != (c.six_bits ? 6 : c.bits) || weight.factored_scales != c.factored) return INFINITY;
    packed_kernel(weight, args.a, args.m, args.m, args.out, edgekiln::kSerial, scratch);
  } else {
    kernel(args, edgekiln::kSerial, scratch);
  }

  // Weight = minimum, the weight of code 0, + scale * code.
  std::vector<float> minimum(scales.size());
  std::vector<double> weights(codes.size());
  for (std::size_t i = 0; i < scales.size(); ++i)
    minimum[i] = c.codebook
                     ? 0.0f
                     : group_bias[i] - scales[i] * static_cast<float>(c.zero_points ? zeros[i] : 1 << (c.bits - 1));
  for (std::size_t i = 0; i < codes.size(); ++i)
    weights[i] = scales[i / c.group] * c.value_of(codes[i]) + static_cast<double>(minimum[i / c.group]);
  // The group bias is multiplied with the activations before their quantization.
  const std::vector<float> exact = a;
  if (prefill && bf16_prefill) {
    a = round_to_bf16(a, [](float x) { return std::nearbyint(x); });
    weights = round_to_bf16(weights, [](double x) { return std::round(x); });
  } else if ((packed_kernel && c.bits == 4) || (c.m <= edgekiln::kGemvMaxM && (packed_kernel || c.group >= 32))) {
    a = quantized(a, c.k, prefill ? prefill_block : 32);
    if (prefill) requantize(c, weights, scales, minimum, codes);
  }
  double worst = 0.0;
  for (std::size_t token = 0; token < c.m; ++token) {
    for (std::size_t column = 0; column < c.n; ++column) {
      double sum = 0.0, squares = 0.0;
      for (std::size_t k = 0; k < c.k; ++k) {
        const std::size_t at = column * c.k + k;
        double term = a[token * c.k + k] * weights[at];
        if (!prefill) term += (exact[token * c.k + k] - a[token * c.k + k]) * group_bias[at / c.group];
        sum += term;
        squares += term * term;
      }
      const double error = std::abs(out[token * c.n + column] - sum) / std::sqrt(squares);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

// How many of all float16 values and of their float neighbours exact_float16() or round_to_float16() convert wrongly.
int wrong_conversions() {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const std::uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) continue;
    const float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(1.0f * fraction, -24);
    const float value = bits & 0x8000 ? -size : size;
    const auto found = edgekiln::exact_float16(value);
    wrong += !found || found->bits != bits;
    wrong += edgekiln::exact_float16(std::nextafter(value, INFINITY)).has_value();
    wrong += exponent && edgekiln::round_to_float16(value * 1.0001f) != value;
  }
  return wrong + edgekiln::exact_float16(65536.0f).has_value() + edgekiln::exact_float16(NAN).has_value();
}

NBitsCase of_codebook(const std::int8_t* codebook, NBitsCase c) {
  c.codebook = codebook;
  return c;
}

const std::vector<NBitsCase> kCases = {
    {"GEMV, 4 bits", 1, 576, 96, 32, 4, true},
    {"GEMV, 8 bits", 1, 576, 96, 32, 8, true},
    {"no zero points, 4 bits", 1, 576, 96, 32, 4, false},
    {"no zero points, 8 bits", 1, 576, 96, 32, 8, false},
    {"groups of 64", 1, 576, 50, 64, 4, true},
    {"groups of 128", 1, 1536, 50, 128, 4, true},
    {"groups of 64, 8 bits", 1, 576, 50, 64, 8, true},
    {"groups of 128, 8 bits", 1, 1536, 50, 128, 8, true},
    {"the smallest", 1, 32, 1, 32, 4, true},
    {"the smallest, 8 bits", 1, 32, 1, 32, 8, true},
    {"an odd number of groups", 1, 160, 33, 32, 4, true},
    {"a long k", 1, 4096, 17, 32, 4, true},
    {"GEMV of 5", 5, 576, 100, 32, 4, true},
    {"the largest m of a GEMV", 8, 576, 100, 32, 4, true},
    {"GEMV of 7, float16 scales and group bias", 7, 160, 33, 32, 4, false, true, true},
    {"GEMV of 8, 8 bits", 8, 96, 40, 32, 8, true},
    {"GEMM", 12, 576, 192, 32, 4, true},
    {"prefill, zero points", 104, 576, 192, 32, 4, true},
    {"prefill, group bias", 97, 160, 50, 32, 4, false, true},
    {"prefill, float16 scales and group bias", 101, 576, 40, 64, 4, false, true, true},
    {"prefill, no zero points", 134, 384, 100, 128, 4, false},
    {"GEMM, 8 bits", 9, 160, 64, 32, 8, true},
    {"GEMM, n not a multiple of a panel", 23, 256, 100, 64, 4, true},
    {"GEMM, no zero points, long k", 21, 1536, 130, 128, 4, false},
    {"GEMM, group bias, an odd number of groups", 13, 160, 33, 32, 4, false, true},
    {"GEMM, group bias, 8 bits", 19, 288, 64, 32, 8, false, true},
    {"GEMM, no zero points", 12, 128, 70, 128, 4, false},
    {"group bias", 1, 576, 96, 32, 4, false, true},
    {"group bias, an odd number of groups", 3, 160, 33, 32, 4, false, true},
    {"group bias, 8 bits", 2, 576, 50, 64, 8, false, true},
    {"group bias, larger GEMM", 23, 256, 100, 64, 4, false, true},
    {"GEMM, n smaller than a vector", 12, 64, 3, 32, 8, false},
    {"float16 scales", 1, 576, 96, 32, 4, false, false, true},
    {"float16 scales, 8 bits, an odd number of groups", 2, 160, 33, 32, 8, false, false, true},
    {"float16 scales and zero points", 1, 576, 50, 64, 4, true, false, true},
    {"float16 scales and group bias", 1, 576, 96, 32, 4, false, true, true},
    {"float16 scales and group bias, 8 bits", 3, 288, 33, 32, 8, false, true, true},
    {"float16 scales and group bias, GEMM", 23, 256, 100, 64, 4, false, true, true},
    {"the smallest m of a GEMM", 9, 160, 33, 32, 4, true},
    {"the largest m before prefill", 63, 160, 33, 32, 4, false, true},
    {"the smallest m of prefill", 64, 160, 33, 32, 4, true, false, true},
    {"prefill, groups of 64", 100, 320, 35, 64, 4, true},
    {"prefill, groups of 128, float16 scales", 99, 384, 17, 128, 4, false, false, true},
    {"groups of 16", 1, 576, 96, 16, 8, false},
    {"groups of 16, the smallest", 1, 32, 1, 16, 8, false},
    {"groups of 16, zero points", 3, 160, 33, 16, 8, true},
    {"groups of 16, group bias", 8, 288, 50, 16, 8, false, true},
    {"groups of 16, float16 scales", 5, 160, 33, 16, 8, false, false, true},
    {"groups of 16, float16 scales and group bias", 2, 160, 33, 16, 8, false, true, true},
    {"groups of 16, GEMM", 19, 288, 70, 16, 8, false},
    {"groups of 16, zero points, GEMM", 9, 96, 33, 16, 8, true, false, true},
    {"extreme, groups of 16", 6, 256, 33, 16, 8, true, false, false, true},
    {"6 bits", 1, 576, 96, 16, 8, false, false, false, false, true},
    {"6 bits, the smallest", 1, 32, 1, 16, 8, false, false, false, false, true},
    {"6 bits, GEMV of 3", 3, 160, 33, 16, 8, false, false, true, false, true},
    {"6 bits, GEMV of 8, group bias", 8, 288, 50, 16, 8, false, true, false, false, true},
    {"6 bits, GEMM", 19, 288, 70, 16, 8, false, false, false, false, true},
    {"6 bits, group bias, GEMM", 9, 96, 33, 16, 8, false, true, false, false, true},
    {"factored scales", 1, 576, 96, 16, 8, false, false, false, false, true, true},
    {"factored scales, the smallest", 1, 32, 1, 16, 8, false, false, false, false, true, true},
    {"factored scales, GEMV of 8", 8, 1024, 33, 16, 8, false, false, false, false, true, true},
    {"factored scales, GEMM", 11, 288, 70, 16, 8, false, false, false, false, true, true},
    {"extreme, 6 bits", 6, 256, 33, 16, 8, false, false, false, true, true},
    {"extreme, 6 bits, one token", 1, 256, 33, 16, 8, false, false, false, true, true},
    {"extreme, 4 bits", 5, 256, 33, 32, 4, true, false, false, true},
    {"extreme, 4 bits, no zero points", 3, 256, 33, 128, 4, false, false, false, true},
    {"extreme, 8 bits", 6, 256, 33, 32, 8, true, false, false, true},
    {"extreme, 8 bits, no zero points", 1, 256, 33, 64, 8, false, false, false, true},
    {"extreme, GEMM", 10, 256, 33, 32, 4, true, false, false, true},
    {"extreme, prefill", 97, 256, 33, 32, 4, true, false, false, true},
    {"extreme, prefill, no zero points", 98, 256, 33, 64, 4, false, false, false, true},
    of_codebook(kFp4, {"FP4", 1, 576, 96, 32, 4, false}),
    of_codebook(kFp4, {"FP4, GEMV of 8, float16 scales", 8, 160, 33, 32, 4, false, false, true}),
    of_codebook(kFp4, {"FP4, GEMM", 23, 256, 100, 32, 4, false}),
    of_codebook(kFp4, {"FP4, prefill", 100, 576, 50, 32, 4, false, false, true}),
    of_codebook(kFp4, {"FP4, prefill, groups of 128", 97, 384, 17, 128, 4, false}),
    of_codebook(kIq4Nl, {"IQ4_NL, the smallest", 1, 32, 1, 32, 4, false, false, true}),
    of_codebook(kIq4Nl, {"IQ4_NL, GEMV of 3", 3, 576, 96, 32, 4, false, false, true}),
    of_codebook(kIq4Nl, {"IQ4_NL, GEMM, groups of 64", 9, 320, 70, 64, 4, false}),
    // Not with float16 scales, whose quotients are often halfway between two steps.
    of_codebook(kIq4Nl, {"IQ4_NL, prefill", 101, 320, 35, 32, 4, false}),
    of_codebook(kExtremes, {"extreme, codebook, one token", 1, 256, 33, 32, 4, false, false, false, true}),
    of_codebook(kExtremes, {"extreme, codebook, GEMM", 10, 256, 33, 32, 4, false, false, false, true}),
    of_codebook(kExtremes, {"extreme, codebook, prefill", 98, 256, 33, 64, 4, false, false, false, true}),
};

}  // namespace

TEST_CASE("n-bit matrix multiplication matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const NBitsCase& c : kCases) {
      for (const auto packed_kernel : {edgekiln::NBitsGemmKernel{}, kernels.nbits_gemm}) {
        if (c.codebook && !packed_kernel) continue;
        INFO(kernels.instruction_set, packed_kernel ? ", packed weights: " : ": ", c.name);
        const bool prefill =
            packed_kernel && c.bits == 4 && c.m >= edgekiln::kPrefillMinM && !q4_prefill_of_codes(kernels);
        CHECK(error_of(c, kernels.matmul_nbits, packed_kernel, prefill, q4_prefill_in_bf16(kernels),
                       q4_prefill_block(kernels)) <= (prefill ? kPrefillTolerance : kTolerance));
      }
    }
  }
}

TEST_CASE("a codebook gives a GEMV the bits that the same weight of 8 bits gives it") {
  constexpr std::size_t kK = 320, kN = 43;
  std::mt19937 generator(5);
  for (const std::int8_t* codebook : {kFp4, kIq4Nl, kExtremes}) {
    for (const std::size_t group : {32, 64}) {
      std::vector<std::uint8_t> codes(kN * kK), eight_bits(codes.size());
      std::generate(codes.begin(), codes.end(), [&] { return static_cast<std::uint8_t>(generator() & 15); });
      std::transform(codes.begin(), codes.end(), eight_bits.begin(),
                     [&](std::uint8_t code) { return static_cast<std::uint8_t>(codebook[code] + 128); });
      const std::vector<std::uint8_t> four_bits = packed(codes, kK, 4);
      std::vector<float> scales(kN * kK / group), a(edgekiln::kGemvMaxM * kK), out(edgekiln::kGemvMaxM * kN),
          expected(out.size());
      for (auto* values : {&scales, &a})
        for (float& value : *values) value = 1e-3f * static_cast<float>(static_cast<int>(generator() % 2000) - 1000);
      edgekiln::MatMulNBitsArgs args{};
      args.k = kK;
      args.n = kN;
      args.group_size = group;
      args.scales = scales.data();
      args.bits = 8;
      args.codes = eight_bits.data();
      const edgekiln::PackedNBits of_8_bits = edgekiln::pack_nbits(args);
      args.bits = 4;
      args.codes = four_bits.data();
      args.codebook = codebook;
      const edgekiln::PackedNBits weight = edgekiln::pack_nbits(args);
      CHECK(weight.bytes() < of_8_bits.bytes());
      for (const edgekiln::KernelTable& kernels : tested_kernels()) {
        if (!kernels.nbits_gemm) continue;
        INFO(kernels.instruction_set, ", groups of ", group);
        for (std::size_t m = 1; m <= edgekiln::kGemvMaxM; ++m) {
          edgekiln::Scratch scratch;
          kernels.nbits_gemm(weight, a.data(), m, m, out.data(), edgekiln::kSerial, scratch);
          kernels.nbits_gemm(of_8_bits, a.data(), m, m, expected.data(), edgekiln::kSerial, scratch);
          CHECK(std::equal(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(m * kN), expected.begin()));
        }
      }
    }
  }
}

TEST_CASE("float16 conversion is exact or refused for every float16 value and its neighbours") {
  CHECK(wrong_conversions() == 0);
}
