// Two-pass LM head (pack/packed_lm_head.h): pass 1 multiplies the high nibbles for the whole vocabulary, pass 2 adds
// the low nibbles for the candidates near each token's largest logit.
#include <algorithm>
#include <limits>

#include "kernels/common/prefetch.h"
#include "kernels/isa_kernels.h"
#include "kernels/packed/low_nibbles.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/find_lanes.h"
#include "kernels/vector/for_each_row.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kPrefetchCandidates = 6;  // prefetched ahead of their use, as candidates lie far apart
// Columns of a task of pass 2: the low nibbles of fewer stay in the L2 cache for the next tokens.
constexpr std::size_t kRangeColumns = 512;

// Quantized activations for kBlocksPerVector blocks of low nibbles, each in four lanes.
struct Activations {
  SignedBytes low, high;  // for the low and the high halves of the packed bytes
  Floats compensation;    // -kMeanLowNibble * sum of a block's codes, in the first of its four lanes
  Floats scale;
};

struct Pass2 {
  const PackedLmHead& head;
  const Activations* activations;  // [m, vectors]
  std::size_t m, vectors;
  const float* least;  // [m], of the candidates' logits
  float* out;          // [m, n]
};

// Blocks past the last are zero, whatever the padding of the packed column holds.
void quantize_token(const float* a, std::size_t blocks, Activations* to) {
  constexpr std::size_t kHalf = kBlock / 2;
  for (std::size_t first = 0; first < blocks; first += kBlocksPerVector, ++to) {
    *to = Activations{};
    for (std::size_t i = 0; i < std::min(kBlocksPerVector, blocks - first); ++i) {
      const QuantizedBlock quantized = quantize_block(a + (first + i) * kBlock);
      const auto* codes = reinterpret_cast<const char*>(&quantized.codes);
      std::memcpy(reinterpret_cast<char*>(&to->low) + i * kHalf, codes, kHalf);
      std::memcpy(reinterpret_cast<char*>(&to->high) + i * kHalf, codes + kHalf, kHalf);
      to->compensation[4 * i] = -kMeanLowNibble * static_cast<float>(quantized.sum);
      for (std::size_t lane = 4 * i; lane < 4 * i + 4; ++lane) to->scale[lane] = quantized.scale;
    }
  }
}

// What the low nibbles of `column` add to the logit of pass 1.
float low_dot(const PackedLmHead& head, std::size_t column, const Activations* activations, std::size_t vectors) {
  const std::uint8_t* codes = head.low_codes_of(column);
  const Float16* scales = head.low_scales_of(column);
  Floats totals[kStripeParts] = {};
  const auto add = [&](Floats& total) {
    const Activations& a = *activations++;
    const Bytes both = load_bytes(codes);
    const Ints sums = dot_nibbles(low_nibbles(both), a.low, high_nibbles(both), a.high);
    total = added(total, to_floats(sums) + a.compensation, spread_scales(scales) * a.scale);
    codes += sizeof(Bytes);
    scales += kBlocksPerVector;
  };
  const Activations* const end = activations + vectors;
  while (activations + kStripeParts <= end)
    for (Floats& total : totals) add(total);
  for (Floats& total : totals) {
    if (activations == end) break;
    add(total);
  }
  return sum_of_stripes(totals);
}

[[gnu::always_inline]] inline void prefetch(const PackedLmHead& head, std::size_t column) {
  prefetch_to_l2(head.low_codes_of(column), head.blocks() * kBlock / 2);
  prefetch_to_l2(head.low_scales_of(column), head.blocks() * sizeof(Float16));
}

// Finds the candidates in a range of columns, token by token, and completes their logits.
void pass_2_task(void* context, std::size_t index) {
  const Pass2& pass = *static_cast<const Pass2*>(context);
  const std::size_t n = pass.head.high.n, first = index * kRangeColumns, columns = std::min(kRangeColumns, n - first);
  thread_local Scratch memory;
  auto* const indices = reinterpret_cast<std::int32_t*>(at_least(memory, pass.m * columns + kLanes));
  std::size_t count = 0;
  for (std::size_t token = 0; token < pass.m; ++token) {
    const std::size_t at = token * n + first;
    count += indices_of(pass.out + at, columns, pass.least[token], at, indices + count);
  }
  for (std::size_t i = 0; i < std::min(kPrefetchCandidates, count); ++i) prefetch(pass.head, indices[i] % n);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kPrefetchCandidates < count) prefetch(pass.head, indices[i + kPrefetchCandidates] % n);
    const std::size_t at = indices[i];
    pass.out[at] += low_dot(pass.head, at % n, pass.activations + at / n * pass.vectors, pass.vectors);
  }
}

}  // namespace

void two_pass_lm_head(const PackedLmHead& head, const float* a, std::size_t m, float* out, const Parallel& parallel,
                      Scratch& scratch) {
  const std::size_t n = head.high.n, vectors = ceil_div(head.blocks(), kBlocksPerVector);
  nbits_gemm(head.high, a, m, 1, out, parallel, scratch);
  constexpr std::size_t kFloats = sizeof(Activations) / sizeof(float);
  auto* activations = reinterpret_cast<Activations*>(at_least(scratch, m * vectors * kFloats));
  float least[kLmHeadRows];
  for_each_row(m, n, parallel, [&](std::size_t token) {
    quantize_token(a + token * head.high.k, head.blocks(), activations + token * vectors);
    least[token] = max_of(out + token * n, n, -std::numeric_limits<float>::infinity()) - head.margin;
  });
  Pass2 pass{head, activations, m, vectors, least, out};
  parallel.run(parallel.self, pass_2_task, ceil_div(n, kRangeColumns), &pass);
}

}  // namespace edgekiln::EDGEKILN_ISA
