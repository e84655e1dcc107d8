// Products with the weights of chosen experts: each row as the plain multiplication of its expert gives it alone.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/mixture_of_experts.h"
#include "nbits_reference.h"
#include "tested_kernels.h"

namespace {

using edgekiln::ExpertMatMulArgs, edgekiln::KernelTable, edgekiln::MatMulNBitsArgs, edgekiln::WeightScheme;

// n is no multiple of a panel.
constexpr std::size_t kExperts = 7, kChosen = 3, kK = 320, kN = 43, kUnused = 3, kRare = 5;
constexpr std::size_t kTokens[] = {1, 3, 8, 9, 95, 130};

// Tokens with experts of which kUnused is never chosen and kRare once; one token has an expert twice.
struct Call {
  Call(std::size_t tokens, bool shared) {
    std::mt19937 generator(static_cast<unsigned>(tokens));
    std::normal_distribution<float> normal;
    x.resize(tokens * (shared ? 1 : kChosen) * kK);
    std::generate(x.begin(), x.end(), [&] { return normal(generator); });
    constexpr std::int64_t kCommon[] = {0, 1, 2, 4, 6};
    for (std::size_t token = 0; token < tokens; ++token)
      for (std::size_t slot = 0; slot < kChosen; ++slot) index.push_back(kCommon[(token * token + slot) % 5]);
    index[tokens / 2 * kChosen] = kRare;
    index[1] = index[2];
    out.resize(tokens * kChosen * kN, NAN);
    args = {tokens, kChosen, kExperts, kK, kN, shared, x.data(), index.data(), out.data()};
  }

  std::vector<float> x, out;
  std::vector<std::int64_t> index;
  ExpertMatMulArgs args{};
};

// Rows that differ from `alone(expert, row, tokens, out)`; `multiply(args)` runs the kernel.
int wrong_rows(const std::function<void(const ExpertMatMulArgs&)>& multiply,
               const std::function<void(std::size_t, const float*, std::size_t, float*)>& alone) {
  int wrong = 0;
  for (const bool shared : {false, true})
    for (const std::size_t tokens : kTokens) {
      const Call call(tokens, shared);
      multiply(call.args);
      std::vector<float> expected(kN);
      for (std::size_t pair = 0; pair < call.args.pairs(); pair += tokens > 8 ? 11 : 1) {
        alone(static_cast<std::size_t>(call.index[pair]), call.args.row(pair), rounding_tokens(call.args),
              expected.data());
        wrong += std::memcmp(expected.data(), &call.out[pair * kN], kN * sizeof(float)) != 0;
      }
    }
  return wrong;
}

template <typename Format>
auto multiplier(const KernelTable& kernels, const Format& format) {
  return [&](const ExpertMatMulArgs& args) {
    edgekiln::Scratch memory, gemm_memory;
    edgekiln::expert_matmul(kernels, format, args, edgekiln::kSerial, memory, gemm_memory);
  };
}

// The weights of all experts, in the order of ONNX Runtime.
struct NBitsWeights {
  NBitsWeights(int bits, std::size_t group, WeightScheme scheme) {
    std::mt19937 generator(5);
    const std::size_t columns = kExperts * kN, groups = kK / group;
    codes.resize(columns * kK * bits / 8);
    zeros.resize(columns * ((groups * bits + 7) / 8));
    scales.resize(columns * groups);
    biases.resize(scales.size());
    for (auto* bytes : {&codes, &zeros})
      std::generate(bytes->begin(), bytes->end(),
                    [&] { return static_cast<std::uint8_t>(group == 16 ? 96 + generator() % 64 : generator()); });
    for (auto* values : {&scales, &biases})
      std::generate(values->begin(), values->end(),
                    [&] { return 0.01f + 1e-3f * static_cast<float>(generator() % 64); });
    args.k = kK;
    args.n = columns;
    args.group_size = group;
    args.bits = bits;
    args.codes = codes.data();
    args.scales = scales.data();
    if (scheme == WeightScheme::kZeroPoints) args.zero_points = zeros.data();
    if (scheme == WeightScheme::kGroupBias) args.group_bias = biases.data();
    if (scheme == WeightScheme::kCodebook) args.codebook = kIq4Nl;
  }

  // Of one value.
  double value(std::size_t column, std::size_t k) const {
    const std::size_t group = k / args.group_size, at = column * args.groups() + group;
    const std::uint8_t byte = args.codes[(column * kK + k) * args.bits / 8];
    const int code = args.bits == 8 ? byte : byte >> k % 2 * 4 & 15;
    if (args.codebook) return static_cast<double>(scales[at]) * args.codebook[code];
    const int zero = args.zero_points ? edgekiln::zero_point_of(args.zero_points + column * args.zero_point_bytes(),
                                                                args.bits, group)
                                      : args.midpoint();
    return static_cast<double>(scales[at]) * (code - zero) + (args.group_bias ? biases[at] : 0.0);
  }

  std::vector<std::uint8_t> codes, zeros;
  std::vector<float> scales, biases;
  MatMulNBitsArgs args{};
};

constexpr WeightScheme kSchemes[] = {WeightScheme::kSymmetric, WeightScheme::kZeroPoints, WeightScheme::kGroupBias,
                                     WeightScheme::kCodebook};

}  // namespace

TEST_CASE("n-bit products with experts are those of each row alone") {
  for (const auto& [bits, group] : {std::pair{4, 32}, {8, 32}, {8, 16}})
    for (const WeightScheme scheme : kSchemes) {
      if (scheme == WeightScheme::kCodebook && bits != 4) continue;
      const NBitsWeights weights(bits, group, scheme);
      const edgekiln::NBitsExperts experts(weights.args, kExperts, {});
      for (const KernelTable& kernels : tested_kernels()) {
        INFO(kernels.instruction_set, ", bits ", bits, ", groups of ", group, ", scheme ", static_cast<int>(scheme));
        edgekiln::Scratch scratch;
        const edgekiln::UnpackedExpertFormat unpacked{weights.args, kN};
        if (scheme != WeightScheme::kCodebook)
          CHECK(wrong_rows(multiplier(kernels, unpacked), [&](std::size_t expert, const float* row, std::size_t tokens,
                                                              float* out) {
                  unpacked.multiply(kernels, unpacked.expert(expert), row, 1, tokens, out, edgekiln::kSerial, scratch);
                }) == 0);
        if (!kernels.nbits_gemm) continue;
        std::vector<edgekiln::PackedNBits> packed;
        for (std::size_t i = 0; i < kExperts; ++i)
          packed.push_back(edgekiln::pack_nbits(weights.args.columns(i * kN, kN)));
        CHECK(wrong_rows(multiplier(kernels, edgekiln::NBitsExpertFormat{experts}),
                         [&](std::size_t expert, const float* row, std::size_t tokens, float* out) {
                           kernels.nbits_gemm(packed[expert], row, 1, tokens, out, edgekiln::kSerial, scratch);
                         }) == 0);
      }
    }
}

TEST_CASE("rows of a call are rounded as the plain multiplication of as many tokens rounds them") {
  for (const auto& [bits, group] : {std::pair{4, 32}, {8, 32}, {8, 16}}) {
    const NBitsWeights weights(bits, group, WeightScheme::kZeroPoints);
    const edgekiln::PackedNBits packed = edgekiln::pack_nbits(weights.args.columns(kN, kN));
    for (const KernelTable& kernels : tested_kernels()) {
      if (!kernels.nbits_gemm) continue;
      INFO(kernels.instruction_set, ", bits ", bits, ", groups of ", group);
      for (const std::size_t tokens : {3, 8, 9, 63, 64, 130}) {
        const Call call(tokens, true);
        std::vector<float> whole(tokens * kN), alone(kN);
        edgekiln::Scratch scratch;
        kernels.nbits_gemm(packed, call.x.data(), tokens, tokens, whole.data(), edgekiln::kSerial, scratch);
        for (std::size_t token = 0; token < tokens; token += 5) {
          kernels.nbits_gemm(packed, &call.x[token * kK], 1, tokens, alone.data(), edgekiln::kSerial, scratch);
          CHECK(std::memcmp(alone.data(), &whole[token * kN], kN * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("n-bit products with experts match double precision") {
  constexpr double kTolerance = 0.05;  // of activations that are quantized to int8; the test above is exact
  for (const auto& [bits, group] : {std::pair{4, 32}, {8, 32}, {8, 16}})
    for (const WeightScheme scheme : kSchemes) {
      if (scheme == WeightScheme::kCodebook && bits != 4) continue;
      const NBitsWeights weights(bits, group, scheme);
      const edgekiln::NBitsExperts experts(weights.args, kExperts, {});
      for (const KernelTable& kernels : tested_kernels()) {
        INFO(kernels.instruction_set, ", bits ", bits, ", groups of ", group, ", scheme ", static_cast<int>(scheme));
        if (!kernels.nbits_gemm && scheme == WeightScheme::kCodebook) continue;
        for (const std::size_t tokens : {1, 9, 120}) {
          const Call call(tokens, false);
          if (kernels.nbits_gemm) {
            multiplier(kernels, edgekiln::NBitsExpertFormat{experts})(call.args);
          } else {
            multiplier(kernels, edgekiln::UnpackedExpertFormat{weights.args, kN})(call.args);
          }
          double worst = 0.0;
          for (std::size_t pair = 0; pair < call.args.pairs(); pair += 7)
            for (std::size_t column = 0; column < kN; ++column) {
              double sum = 0.0, squares = 0.0;
              for (std::size_t k = 0; k < kK; ++k) {
                const double term =
                    call.args.row(pair)[k] * weights.value(static_cast<std::size_t>(call.index[pair]) * kN + column, k);
                sum += term;
                squares += term * term;
              }
              const double error = std::abs(call.out[pair * kN + column] - sum) / std::sqrt(squares);
              worst = std::isnan(error) ? INFINITY : std::max(worst, error);
            }
          CHECK(worst < kTolerance);
        }
      }
    }
}

TEST_CASE("per-token int8 products with experts are those of each row alone") {
  std::mt19937 generator(5);
  std::vector<std::int8_t> codes(kExperts * kK * kN);
  std::generate(codes.begin(), codes.end(), [&] { return static_cast<std::int8_t>(generator()); });
  std::vector<float> scales(kExperts * kN);
  std::generate(scales.begin(), scales.end(), [&] { return 0.01f + 1e-3f * static_cast<float>(generator() % 64); });
  for (const KernelTable& kernels : tested_kernels()) {
    if (!kernels.per_token_int8_gemm) continue;
    INFO(kernels.instruction_set);
    const edgekiln::Int8Experts experts(codes.data(), scales.data(), kExperts, kK, kN, kernels.int8_order, {});
    std::vector<edgekiln::PackedInt8> packed;
    for (std::size_t i = 0; i < kExperts; ++i)
      packed.emplace_back(codes.data() + i * kK * kN, scales.data() + i * kN, kK, kN, kernels.int8_order);
    edgekiln::Scratch scratch;
    CHECK(wrong_rows(multiplier(kernels, edgekiln::PerTokenInt8ExpertFormat{experts}),
                     [&](std::size_t expert, const float* row, std::size_t, float* out) {
                       kernels.per_token_int8_gemm(packed[expert], row, 1, out, edgekiln::kSerial, scratch);
                     }) == 0);
  }
}

TEST_CASE("float products with experts match double precision, and are those of each row alone") {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(kExperts * kN * kK);
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  for (const KernelTable& kernels : tested_kernels()) {
    INFO(kernels.instruction_set);
    const edgekiln::FloatExpertWeight all{values.data(), kK, kExperts * kN};
    double worst = 0.0;
    CHECK(wrong_rows(multiplier(kernels, edgekiln::FloatExpertFormat{all, kN}),
                     [&](std::size_t expert, const float* row, std::size_t, float* out) {
                       const float* const weight = values.data() + expert * kN * kK;
                       kernels.float_gemm(weight, kK, kN, row, 1, out, edgekiln::kSerial);
                       for (std::size_t column = 0; column < kN; ++column) {
                         double sum = 0.0, squares = 0.0;
                         for (std::size_t k = 0; k < kK; ++k) {
                           const double term = static_cast<double>(row[k]) * weight[column * kK + k];
                           sum += term;
                           squares += term * term;
                         }
                         worst = std::max(worst, std::abs(out[column] - sum) / std::sqrt(squares));
                       }
                     }) == 0);
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("a mixture is its products, with their activation between them and their weighted sum") {
  constexpr std::size_t kInner = 64;
  std::mt19937 generator(5);
  std::vector<std::int8_t> gate_up_codes(kExperts * kK * 2 * kInner);
  std::generate(gate_up_codes.begin(), gate_up_codes.end(), [&] { return static_cast<std::int8_t>(generator()); });
  const std::vector<float> gate_up_scales(kExperts * 2 * kInner, 0.001f);
  std::vector<std::uint8_t> down_codes(kExperts * kK * kInner / 2);
  std::generate(down_codes.begin(), down_codes.end(), [&] { return static_cast<std::uint8_t>(generator()); });
  const std::vector<float> down_scales(kExperts * kK * kInner / 32, 0.02f);
  MatMulNBitsArgs weight{};
  weight.k = kInner;
  weight.n = kExperts * kK;
  weight.group_size = 32;
  weight.bits = 4;
  weight.codes = down_codes.data();
  weight.scales = down_scales.data();
  const edgekiln::NBitsExperts down_experts(weight, kExperts, {});
  for (const KernelTable& kernels : tested_kernels()) {
    if (!kernels.nbits_gemm) continue;
    INFO(kernels.instruction_set);
    const edgekiln::Int8Experts gate_up_experts(gate_up_codes.data(), gate_up_scales.data(), kExperts, kK, 2 * kInner,
                                                kernels.int8_order, {});
    const edgekiln::PerTokenInt8ExpertFormat gate_up{gate_up_experts};
    const edgekiln::NBitsExpertFormat down{down_experts};
    for (const std::size_t tokens : {1, 4, 9, 130}) {
      const Call call(tokens, true);
      const std::size_t pairs = tokens * kChosen;
      std::vector<float> gates(pairs), projected(pairs * 2 * kInner), gated(pairs * kInner), outputs(pairs * kK),
          sum(tokens * kK), alone(kK);
      std::generate(gates.begin(), gates.end(), [&] { return 0.1f + static_cast<float>(generator() % 8) / 16; });
      edgekiln::Scratch memory, gemm_memory;
      const std::int64_t* const index = call.index.data();
      edgekiln::mixture_of_experts(
          kernels, gate_up, down,
          {tokens, kChosen, kExperts, kK, kInner, call.x.data(), index, gates.data(), sum.data()}, edgekiln::kSerial,
          memory, gemm_memory);
      const auto product = [&](const auto& format, std::size_t k, std::size_t n, const std::vector<float>& x,
                               std::vector<float>& out) {
        const bool shared = x.size() == tokens * k;
        edgekiln::expert_matmul(kernels, format, {tokens, kChosen, kExperts, k, n, shared, x.data(), index, out.data()},
                                edgekiln::kSerial, memory, gemm_memory);
      };
      product(gate_up, kK, 2 * kInner, call.x, projected);
      kernels.swiglu({pairs, kInner, projected.data(), gated.data()}, edgekiln::kSerial);
      product(down, kInner, kK, gated, outputs);
      double worst = 0.0, largest = 0.0;
      for (std::size_t token = 0; token < tokens; ++token)
        for (std::size_t i = 0; i < kK; ++i) {
          double expected = 0.0;
          for (std::size_t pair = token * kChosen; pair < (token + 1) * kChosen; ++pair)
            expected += static_cast<double>(gates[pair]) * outputs[pair * kK + i];
          const double error = std::abs(sum[token * kK + i] - expected);
          worst = std::isnan(error) ? INFINITY : std::max(worst, error);
          largest = std::max(largest, std::abs(expected));
        }
      CHECK(worst < 1e-6 * largest);
    }
  }
}
