// Kernels give the same bits on every instruction set with fused multiply-adds, x86 or Arm, which docs/kernels.md
// promises: their outputs for fixed inputs have fixed hashes.
//
// Inputs come from integers, as the libraries of two systems need not agree on distributions. A change of a kernel's
// rounding or order of sums changes its hash for all instruction sets; the failed check shows the new one.
#include <doctest/doctest.h>

#include <bit>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "nbits_reference.h"
#include "tested_kernels.h"

namespace {

using edgekiln::KernelTable;

// Portable code has no fused multiply-adds on x86.
std::vector<KernelTable> compared_kernels() {
  std::vector<KernelTable> tables = tested_kernels();
  std::erase_if(tables, [](const KernelTable& table) { return std::string_view(table.instruction_set) == "portable"; });
  return tables;
}

class Generator {
 public:
  std::uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state_ >> 33);
  }
  template <typename Integer>
  std::vector<Integer> integers(std::size_t count) {
    std::vector<Integer> values(count);
    for (Integer& value : values) value = static_cast<Integer>(next());
    return values;
  }
  // Sums of three uniform numbers, in (-3 * spread, 3 * spread).
  std::vector<float> floats(std::size_t count, float spread = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) {
      std::int32_t sum = 0;
      for (int i = 0; i < 3; ++i) sum += static_cast<std::int32_t>(next() >> 10) - (1 << 20);
      value = static_cast<float>(sum) * (spread / (1 << 20));
    }
    return values;
  }
  std::vector<float> scales(std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(next() % 48 + 16) * 0x1p-12f;
    return values;
  }

 private:
  std::uint64_t state_ = 1;
};

// FNV-1a of 64 bits, with a whole value a step.
class Hash {
 public:
  void add(const std::vector<float>& values) {
    for (const float value : values) add(std::bit_cast<std::uint32_t>(value));
  }
  void add(const std::vector<std::int8_t>& values) {
    for (const std::int8_t value : values) add(static_cast<std::uint8_t>(value));
  }
  void add(std::uint64_t value) { value_ = (value_ ^ value) * 0x100000001b3u; }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

std::uint64_t skip_rms_norms(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t width : {5, 24, 100, 576}) {
    Generator generator;
    constexpr std::size_t kTokens = 3;
    const std::vector<float> a = generator.floats(kTokens * width), b = generator.floats(kTokens * width),
                             gamma = generator.floats(width), bias = generator.floats(width);
    std::vector<float> out(a.size()), sum(a.size());
    for (const float* with : {static_cast<const float*>(nullptr), bias.data()}) {
      kernels.skip_rms_norm({kTokens, width, a.data(), b.data(), gamma.data(), with, 1e-5f, out.data(), sum.data()},
                            edgekiln::kSerial);
      hash.add(out);
      hash.add(sum);
    }
  }
  return hash.value();
}

std::uint64_t qkv_prologues(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t dim : {8, 40, 64, 80}) {
    Generator generator;
    edgekiln::QkvPrologueArgs args{};
    args.tokens = 2;
    args.heads = 3;
    args.kv_heads = 1;
    args.head_dim = dim;
    const std::vector<float> from = generator.floats(args.tokens * args.width()), bias = generator.floats(args.width()),
                             gammas = generator.floats(2 * dim);
    std::vector<float> to(from.size());
    args.from = from.data();
    args.to = to.data();
    args.gammas[0] = gammas.data();
    args.gammas[1] = gammas.data() + dim;
    args.epsilon = 1e-6f;
    for (const float* with : {static_cast<const float*>(nullptr), bias.data()}) {
      args.bias = with;
      kernels.qkv_prologue(args, edgekiln::kSerial);
      hash.add(to);
    }
  }
  return hash.value();
}

std::uint64_t swiglus(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t width : {3, 37, 576}) {
    Generator generator;
    constexpr std::size_t kTokens = 3;
    const std::vector<float> gate_up = generator.floats(kTokens * 2 * width, 40.0f);
    std::vector<float> out(kTokens * width);
    kernels.swiglu({kTokens, width, gate_up.data(), out.data()}, edgekiln::kSerial);
    hash.add(out);
  }
  return hash.value();
}

struct AttentionCase {
  std::size_t length, past, head_dim;
  float softcap = 0.0f;
  std::size_t window = 0;
  bool interleaved = false;
};

std::uint64_t attention(const KernelTable& kernels, const AttentionCase& c, bool int8) {
  Generator generator;
  constexpr std::size_t kHeads = 6, kKvHeads = 2;
  const std::size_t capacity = c.past + c.length, dim = c.head_dim, stride = (kHeads + 2 * kKvHeads) * dim;
  const std::size_t cached = kKvHeads * capacity * dim;
  const std::vector<float> qkv = generator.floats(c.length * stride),
                           cosine = generator.floats(capacity * dim / 2, 0.3f),
                           sine = generator.floats(capacity * dim / 2, 0.3f), scales = generator.scales(kKvHeads * dim);
  std::vector<float> keys = generator.floats(cached), values = generator.floats(cached), out(c.length * kHeads * dim);
  std::vector<std::int8_t> key_codes = generator.integers<std::int8_t>(cached),
                           value_codes = generator.integers<std::int8_t>(cached);
  const auto last = static_cast<std::int32_t>(capacity - 1);
  edgekiln::AttentionArgs args{};
  args.batch = 1;
  args.length = c.length;
  args.heads = kHeads;
  args.kv_heads = kKvHeads;
  args.head_dim = dim;
  args.capacity = capacity;
  args.set_packed_qkv(qkv.data(), stride);
  args.key_cache =
      int8 ? edgekiln::CacheTensor{key_codes.data(), scales.data()} : edgekiln::CacheTensor{keys.data(), nullptr};
  args.value_cache =
      int8 ? edgekiln::CacheTensor{value_codes.data(), scales.data()} : edgekiln::CacheTensor{values.data(), nullptr};
  args.last_position = &last;
  args.cosine = cosine.data() + c.past * (dim / 2);
  args.sine = sine.data() + c.past * (dim / 2);
  args.rotary_dim = dim;
  args.interleaved = c.interleaved;
  args.scale = 0.125f;
  args.softcap = c.softcap;
  args.window = c.window;
  args.out = out.data();
  edgekiln::Scratch scratch;
  kernels.attention(args, edgekiln::kSerial, scratch);
  Hash hash;
  hash.add(out);
  hash.add(keys);
  hash.add(key_codes);
  hash.add(value_codes);
  return hash.value();
}

std::uint64_t attentions(const KernelTable& kernels, bool int8) {
  Hash hash;
  for (const AttentionCase& c : {AttentionCase{1, 0, 64},
                                 {1, 150, 64},
                                 {5, 70, 64},
                                 {9, 3, 64},
                                 {140, 0, 64},
                                 {20, 200, 64},
                                 {1, 90, 24},
                                 {1, 90, 37},
                                 {1, 90, 48},
                                 {1, 90, 80},
                                 {1, 90, 128},
                                 {1, 90, 256},
                                 {12, 40, 40},
                                 {12, 40, 37},
                                 {12, 40, 80},
                                 {1, 90, 64, 30.0f},
                                 {30, 90, 64, 30.0f, 50},
                                 {1, 90, 64, 0.0f, 33, true},
                                 {200, 0, 16, 0.0f, 33, true}})
    hash.add(attention(kernels, c, int8));
  return hash.value();
}

std::uint64_t causal_convs(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t width : {3, 4, 7})
    for (const std::size_t channels : {5, 300})
      for (const bool silu : {false, true}) {
        Generator generator;
        edgekiln::CausalConvArgs args{};
        args.batch = 2;
        args.length = 11;
        args.channels = channels;
        args.width = width;
        const std::size_t values = args.batch * args.length * channels;
        const std::vector<float> x = generator.floats(values), weight = generator.floats(width * channels),
                                 bias = generator.floats(channels),
                                 past = generator.floats(args.batch * channels * (width - 1));
        std::vector<float> out(values), present(past.size());
        args.x = x.data();
        args.weight = weight.data();
        args.bias = bias.data();
        args.past = past.data();
        args.silu = silu;
        args.out = out.data();
        args.present = present.data();
        kernels.causal_conv(args, edgekiln::kSerial);
        hash.add(out);
        hash.add(present);
      }
  return hash.value();
}

std::uint64_t linear_attentions(const KernelTable& kernels) {
  Hash hash;
  for (const bool delta : {false, true})
    for (const bool by_row : {false, true})
      for (const std::size_t length : {1, 5, 27})
        for (const std::size_t value_dim : {24, 64, 100}) {
          Generator generator;
          edgekiln::LinearAttentionArgs args{};
          args.batch = 1;
          args.length = length;
          args.heads = 4;
          args.key_heads = 2;
          args.key_dim = 72;
          args.value_dim = value_dim;
          const std::size_t keys = length * args.key_heads * args.key_dim, factors = length * args.heads;
          const std::vector<float> query = generator.floats(keys, 0.1f), key = generator.floats(keys, 0.1f),
                                   value = generator.floats(factors * value_dim),
                                   past = generator.floats(args.heads * args.key_dim * value_dim),
                                   beta = generator.floats(factors), a = generator.floats(args.heads),
                                   bias = generator.floats(args.heads), skip = generator.floats(args.heads);
          std::vector<float> decay = generator.floats(factors * (by_row ? args.key_dim : 1));
          for (float& each : decay) each = -each * each;
          std::vector<float> steps(a);
          for (float& each : steps) each = -each * each;
          std::vector<float> out(value.size()), present(past.size());
          args.query = query.data();
          args.key = key.data();
          args.value = value.data();
          args.past = past.data();
          args.out = out.data();
          args.present = present.data();
          args.scale = 0.7f;
          args.delta = delta;
          args.decay = decay.data();
          args.decay_by_row = by_row;
          args.a = by_row ? nullptr : steps.data();
          args.dt_bias = bias.data();
          args.least_step = 0.1f;
          args.most_step = 1.5f;
          args.factor = delta    ? edgekiln::UpdateFactor::kSigmoid
                        : by_row ? edgekiln::UpdateFactor::kBeta
                                 : edgekiln::UpdateFactor::kStep;
          args.beta = beta.data();
          args.skip = delta ? nullptr : skip.data();
          args.norm_epsilon = delta ? 1e-6f : 0.0f;
          kernels.linear_attention(args, edgekiln::kSerial);
          hash.add(out);
          hash.add(present);
        }
  return hash.value();
}

std::uint64_t selective_scans(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t states : {5, 16})
    for (const std::size_t channels : {37, 256}) {
      Generator generator;
      constexpr std::size_t kTokens = 6;
      const std::vector<float> x = generator.floats(kTokens * channels), dt = generator.floats(kTokens * channels),
                               b = generator.floats(kTokens * states), c = generator.floats(kTokens * states),
                               d = generator.floats(channels), z = generator.floats(kTokens * channels),
                               bias = generator.floats(channels), past = generator.floats(channels * states);
      std::vector<float> a = generator.floats(channels * states), out(x.size()), present(past.size());
      for (float& each : a) each = -each * each;
      kernels.selective_scan({1, kTokens, channels, states, x.data(), dt.data(), a.data(), b.data(), c.data(), d.data(),
                              z.data(), bias.data(), past.data(), out.data(), present.data()},
                             edgekiln::kSerial);
      hash.add(out);
      hash.add(present);
    }
  return hash.value();
}

std::uint64_t gated_rms_norms(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t width : {5, 24, 100, 576}) {
    Generator generator;
    constexpr std::size_t kRows = 3;
    const std::vector<float> x = generator.floats(kRows * width), gate = generator.floats(kRows * width),
                             gamma = generator.floats(width);
    std::vector<float> out(x.size());
    for (const bool before : {false, true}) {
      kernels.gated_rms_norm({kRows, width, x.data(), gate.data(), gamma.data(), 1e-5f, before, out.data()},
                             edgekiln::kSerial);
      hash.add(out);
    }
    kernels.gated_rms_norm({kRows, width, x.data(), gate.data(), nullptr, 0.0f, false, out.data()}, edgekiln::kSerial);
    hash.add(out);
  }
  return hash.value();
}

// Of 4-bit codes that index a codebook, below their prefill.
std::uint64_t codebook_gemms(const KernelTable& kernels) {
  constexpr std::size_t kK = 320, kN = 43;
  Generator generator;
  const auto codes = generator.integers<std::uint8_t>(kN * kK / 2);
  const std::vector<float> scales = generator.scales(kN * kK / 32);
  edgekiln::MatMulNBitsArgs weight{};
  weight.k = kK;
  weight.n = kN;
  weight.group_size = 32;
  weight.bits = 4;
  weight.codes = codes.data();
  weight.scales = scales.data();
  weight.codebook = kIq4Nl;
  const edgekiln::PackedNBits packed = edgekiln::pack_nbits(weight);
  Hash hash;
  for (const std::size_t m : {1, 8, 15}) {
    const std::vector<float> a = generator.floats(m * kK);
    std::vector<float> out(m * kN);
    edgekiln::Scratch scratch;
    kernels.nbits_gemm(packed, a.data(), m, m, out.data(), edgekiln::kSerial, scratch);
    hash.add(out);
  }
  return hash.value();
}

// Below the prefill of 4-bit weights, whose rounding differs.
std::uint64_t nbits_gemms(const KernelTable& kernels, std::size_t group, std::initializer_list<int> all_bits) {
  constexpr std::size_t kK = 320, kN = 43;
  const std::size_t groups = kK / group;
  Hash hash;
  for (const int bits : all_bits)
    for (const auto scheme : {edgekiln::WeightScheme::kSymmetric, edgekiln::WeightScheme::kZeroPoints,
                              edgekiln::WeightScheme::kGroupBias}) {
      Generator generator;
      const bool six = bits == 6;
      const int stored_bits = six ? 8 : bits;
      auto codes = generator.integers<std::uint8_t>(kN * kK * stored_bits / 8);
      for (std::uint8_t& code : codes)
        if (six) code = static_cast<std::uint8_t>(96 + code % 64);
      const auto zeros = generator.integers<std::uint8_t>(kN * (groups * stored_bits + 7) / 8);
      const std::vector<float> scales = generator.scales(kN * groups), biases = generator.floats(kN * groups);
      edgekiln::MatMulNBitsArgs weight{};
      weight.k = kK;
      weight.n = kN;
      weight.group_size = group;
      weight.bits = stored_bits;
      weight.codes = codes.data();
      weight.scales = scales.data();
      if (scheme == edgekiln::WeightScheme::kZeroPoints) weight.zero_points = zeros.data();
      if (scheme == edgekiln::WeightScheme::kGroupBias) weight.group_bias = biases.data();
      const edgekiln::PackedNBits packed = edgekiln::pack_nbits(weight);
      for (const std::size_t m : {1, 8, 15}) {
        const std::vector<float> a = generator.floats(m * kK);
        std::vector<float> out(m * kN);
        edgekiln::Scratch scratch;
        kernels.nbits_gemm(packed, a.data(), m, m, out.data(), edgekiln::kSerial, scratch);
        hash.add(out);
      }
    }
  return hash.value();
}

std::uint64_t int8_gemms(const KernelTable& kernels) {
  constexpr std::size_t kK = 323, kN = 43;
  Generator generator;
  const auto codes = generator.integers<std::int8_t>(kK * kN);
  const std::vector<float> scales = generator.scales(kN);
  const edgekiln::PackedInt8 weight(codes.data(), scales.data(), kK, kN, kernels.int8_order);
  Hash hash;
  for (const std::size_t m : {1, 8, 45}) {
    const std::vector<float> a = generator.floats(m * kK);
    std::vector<float> out(m * kN);
    edgekiln::Scratch scratch;
    kernels.per_token_int8_gemm(weight, a.data(), m, out.data(), edgekiln::kSerial, scratch);
    hash.add(out);
  }
  return hash.value();
}

std::uint64_t float_gemms(const KernelTable& kernels) {
  constexpr std::size_t kK = 323, kN = 70;
  Generator generator;
  const std::vector<float> weight = generator.floats(kK * kN);
  Hash hash;
  for (const std::size_t m : {1, 8, 45}) {
    const std::vector<float> a = generator.floats(m * kK);
    std::vector<float> out(m * kN);
    kernels.float_gemm(weight.data(), kK, kN, a.data(), m, out.data(), edgekiln::kSerial);
    hash.add(out);
  }
  return hash.value();
}

std::uint64_t routers(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t hidden : {8, 70, 256})
    for (const auto score :
         {edgekiln::RouterScore::kSoftmax, edgekiln::RouterScore::kSoftmaxOfChosen, edgekiln::RouterScore::kSigmoid}) {
      constexpr std::size_t kExperts = 21, kChosen = 5, kTokens = 7;
      Generator generator;
      const std::vector<float> weight = generator.floats(kExperts * hidden, 0.1f), bias = generator.floats(kExperts),
                               x = generator.floats(kTokens * hidden);
      const edgekiln::Router router{kExperts, kChosen, hidden,      weight.data(), bias.data(),
                                    nullptr,  score,   hidden == 8, 1e-6f,         2.5f};
      std::vector<float> logits(kTokens * router.stride()), gates(kTokens * kChosen);
      std::vector<std::int64_t> index(gates.size());
      kernels.route(router, {kTokens, x.data(), logits.data(), index.data(), gates.data()}, edgekiln::kSerial);
      hash.add(gates);
      for (const std::int64_t expert : index) hash.add(static_cast<std::uint64_t>(expert));
    }
  return hash.value();
}

std::uint64_t two_pass_lm_heads(const KernelTable& kernels) {
  Hash hash;
  for (const std::size_t k : {32, 96, 160, 576}) {
    constexpr std::size_t kN = 300, kTokens = 3;
    Generator generator;
    const auto codes = generator.integers<std::uint8_t>(kN * k);
    const std::vector<float> scales = generator.scales(kN * k / 32), a = generator.floats(kTokens * k);
    edgekiln::MatMulNBitsArgs weight{};
    weight.k = k;
    weight.n = kN;
    weight.group_size = 32;
    weight.bits = 8;
    weight.codes = codes.data();
    weight.scales = scales.data();
    const auto packed = edgekiln::pack_lm_head(weight, 20.0f);
    REQUIRE(packed);
    std::vector<float> out(kTokens * kN);
    edgekiln::Scratch scratch;
    kernels.two_pass_lm_head(*packed, a.data(), kTokens, out.data(), edgekiln::kSerial, scratch);
    hash.add(out);
  }
  return hash.value();
}

}  // namespace

TEST_CASE("every instruction set gives the same bits") {
  for (const KernelTable& kernels : compared_kernels()) {
    INFO(kernels.instruction_set);
    CHECK(skip_rms_norms(kernels) == 0xf0d679e46eff3b83u);
    CHECK(qkv_prologues(kernels) == 0x73fe442392108918u);
    CHECK(swiglus(kernels) == 0xdfc11198eee5d187u);
    CHECK(attentions(kernels, false) == 0x6c9d00c7d1661a5bu);
    CHECK(attentions(kernels, true) == 0xe8f80f57900456bbu);
    CHECK(causal_convs(kernels) == 0xe96d4aa08464c66bu);
    CHECK(linear_attentions(kernels) == 0x051fa82000923c32u);
    CHECK(selective_scans(kernels) == 0x861e2004ec4a5bf2u);
    CHECK(gated_rms_norms(kernels) == 0xbcff5f58ee155153u);
    CHECK(nbits_gemms(kernels, 64, {4, 8}) == 0x8a7e8eddd121f424u);
    CHECK(nbits_gemms(kernels, 16, {6, 8}) == 0xefdcbd556a8b133du);
    CHECK(codebook_gemms(kernels) == 0x48a1faa84f0fb7au);
    CHECK(int8_gemms(kernels) == 0xf693a53a4bd2a921u);
    CHECK(float_gemms(kernels) == 0xd94a93b4995410f8u);
    CHECK(routers(kernels) == 0xa3ba297221947e14u);
    if (kernels.two_pass_lm_head) CHECK(two_pass_lm_heads(kernels) == 0xe7708079b997e541u);
  }
}
