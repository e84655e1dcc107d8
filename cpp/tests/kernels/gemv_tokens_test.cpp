// A GEMV of several tokens gives each token the bits that it gets alone, whatever their number: speculative decoding
// verifies drafted tokens in one step, and may not change the answer.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/common/float16.h"
#include "nbits_reference.h"
#include "tested_kernels.h"

namespace {

constexpr std::size_t kK = 320, kN = 43;
// The rows of decode steps: one for each sequence.
constexpr std::size_t kBatches[] = {2, 3, 4, 5, 6, 7, 8, 9, 32, 70};
constexpr std::size_t kMost = 70;

// The number of rows of all batches that differ from the same row alone; `multiply(a, m, out)` runs the kernel.
template <typename Multiply>
int wrong_tokens(const Multiply& multiply) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> a(kMost * kK), alone(kMost * kN), together(alone.size());
  std::generate(a.begin(), a.end(), [&] { return normal(generator); });
  for (std::size_t token = 0; token < kMost; ++token) multiply(a.data() + token * kK, 1, alone.data() + token * kN);
  int wrong = 0;
  for (const std::size_t m : kBatches) {
    multiply(a.data(), m, together.data());
    for (std::size_t token = 0; token < m; ++token)
      wrong += std::memcmp(&alone[token * kN], &together[token * kN], kN * sizeof(float)) != 0;
  }
  return wrong;
}

std::vector<edgekiln::Float16> to_float16(const std::vector<float>& values) {
  std::vector<edgekiln::Float16> result;
  for (const float value : values) result.push_back(*edgekiln::exact_float16(edgekiln::round_to_float16(value)));
  return result;
}

}  // namespace

TEST_CASE_TEMPLATE("n-bit GEMV gives each token the bits that it gets alone", Param, float, edgekiln::Float16) {
  std::mt19937 generator(5);
  // With groups of 16, codes are packed as 6 bits but with zero points.
  for (const auto& [bits, group] : {std::pair{4, 32}, {8, 32}, {8, 16}}) {
    for (const auto scheme : {edgekiln::WeightScheme::kSymmetric, edgekiln::WeightScheme::kZeroPoints,
                              edgekiln::WeightScheme::kGroupBias, edgekiln::WeightScheme::kCodebook}) {
      if (scheme == edgekiln::WeightScheme::kCodebook && bits != 4) continue;
      const std::size_t groups = kK / group;
      std::vector<std::uint8_t> codes(kN * kK * bits / 8), zeros(kN * (groups * bits + 7) / 8);
      std::vector<float> scales(kN * groups), biases(kN * groups);
      for (auto* bytes : {&codes, &zeros})
        std::generate(bytes->begin(), bytes->end(),
                      [&] { return static_cast<std::uint8_t>(group == 16 ? 96 + generator() % 64 : generator()); });
      for (auto* values : {&scales, &biases})
        std::generate(values->begin(), values->end(),
                      [&] { return 0.01f + 1e-3f * static_cast<float>(generator() % 64); });
      edgekiln::MatMulNBitsArgs args{};
      args.k = kK;
      args.n = kN;
      args.group_size = group;
      args.bits = bits;
      args.codes = codes.data();
      args.scales = scales.data();
      if (scheme == edgekiln::WeightScheme::kZeroPoints) args.zero_points = zeros.data();
      if (scheme == edgekiln::WeightScheme::kGroupBias) args.group_bias = biases.data();
      if (scheme == edgekiln::WeightScheme::kCodebook) args.codebook = kIq4Nl;
      const std::vector<edgekiln::Float16> float16_scales = to_float16(scales), float16_min = to_float16(biases);
      if (std::is_same_v<Param, edgekiln::Float16>) {
        args.float16_scales = float16_scales.data();
        args.float16_min = float16_min.data();
      }
      const edgekiln::PackedNBits weight = edgekiln::pack_nbits(args);
      for (const edgekiln::KernelTable& kernels : tested_kernels()) {
        if (!kernels.nbits_gemm) continue;
        INFO(kernels.instruction_set, ", bits ", bits, ", groups of ", group, ", scheme ", static_cast<int>(scheme));
        edgekiln::Scratch scratch;
        CHECK(wrong_tokens([&](const float* a, std::size_t m, float* out) {
                kernels.nbits_gemm(weight, a, m, 1, out, edgekiln::kSerial, scratch);
              }) == 0);
      }
    }
  }
}

TEST_CASE("per-token int8 GEMV gives each token the bits that it gets alone") {
  std::mt19937 generator(5);
  std::vector<std::int8_t> codes(kK * kN);
  std::generate(codes.begin(), codes.end(), [&] { return static_cast<std::int8_t>(generator()); });
  const std::vector<float> scales(kN, 0.013f);
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    if (!kernels.per_token_int8_gemm) continue;
    INFO(kernels.instruction_set);
    const edgekiln::PackedInt8 weight(codes.data(), scales.data(), kK, kN, kernels.int8_order);
    edgekiln::Scratch scratch;
    CHECK(wrong_tokens([&](const float* a, std::size_t m, float* out) {
            kernels.per_token_int8_gemm(weight, a, m, out, edgekiln::kSerial, scratch);
          }) == 0);
  }
}
