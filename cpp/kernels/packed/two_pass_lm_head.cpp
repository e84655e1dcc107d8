// Two-pass LM head (pack/packed_lm_head.h): pass 1 multiplies the high nibbles for the whole vocabulary, pass 2 adds
// the low nibbles for the candidates near each token's largest logit. For AVX512-VNNI.
#include <algorithm>
#include <limits>

#include "kernels/isa_kernels.h"
#include "kernels/packed/packed_gemm.h"
#include "kernels/vector/float16_load.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kBlocksPerVector = 4;  // blocks of low nibbles in 64 bytes
constexpr std::size_t kCandidatesPerTask = 128;
constexpr std::size_t kPrefetchCandidates = 6;  // prefetched ahead of their use, as candidates lie far apart
constexpr std::size_t kRangeColumns = 512;

// Quantized activations for four blocks of low nibbles. VPDPBUSD leaves four int32 sums a block.
struct Activations {
  __m512i low, high;    // for the low and the high halves of the packed bytes
  __m512 compensation;  // -kMeanLowNibble * sum of a block's codes, in the first of its four lanes
  __m512 scale;
};

// Logits that pass 2 completes.
struct Candidates {
  const PackedLmHead& head;
  const Activations* activations;  // [m, vectors]
  std::size_t vectors;
  const std::int32_t* indices;  // into `out`
  std::size_t count;
  float* out;  // [m, n]
};

// Blocks past the last are zero, whatever the padding of the packed column holds.
void quantize_token(const float* a, std::size_t blocks, Activations* to) {
  for (std::size_t first = 0; first < blocks; first += kBlocksPerVector, ++to) {
    alignas(64) __m128i low[kBlocksPerVector]{}, high[kBlocksPerVector]{};
    alignas(64) float compensation[kLanes]{}, scale[kLanes]{};
    for (std::size_t i = 0; i < std::min(kBlocksPerVector, blocks - first); ++i) {
      const QuantizedBlock quantized = quantize_block(a + (first + i) * kBlock);
      const auto codes = reinterpret_cast<__m256i>(quantized.codes);
      low[i] = _mm256_castsi256_si128(codes);
      high[i] = _mm256_extracti128_si256(codes, 1);
      compensation[4 * i] = -kMeanLowNibble * static_cast<float>(quantized.sum);
      std::fill_n(scale + 4 * i, 4, quantized.scale);
    }
    *to = {_mm512_load_si512(low), _mm512_load_si512(high), _mm512_load_ps(compensation), _mm512_load_ps(scale)};
  }
}

// What the low nibbles of `column` add to the logit of pass 1.
float low_dot(const PackedLmHead& head, std::size_t column, const Activations* activations, std::size_t vectors) {
  const std::uint8_t* codes = head.low_codes_of(column);
  const Float16* scales = head.low_scales_of(column);
  const __m512i block_of_lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 total = _mm512_setzero_ps();
  for (std::size_t i = 0; i < vectors; ++i, codes += sizeof(__m512i), scales += kBlocksPerVector) {
    const Activations& a = activations[i];
    const __m512i both = _mm512_loadu_si512(codes);
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(both, nibble), a.low);
    sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), a.high);
    const __m512 scale = _mm512_permutexvar_ps(block_of_lane, _mm512_castps128_ps512(load_4(scales)));
    total =
        _mm512_fmadd_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums), a.compensation), _mm512_mul_ps(scale, a.scale), total);
  }
  return _mm512_reduce_add_ps(total);
}

void prefetch(const PackedLmHead& head, std::size_t column) {
  const std::uint8_t* codes = head.low_codes_of(column);
  const Float16* scales = head.low_scales_of(column);
  for (std::size_t at = 0; at < head.blocks() * kBlock / 2; at += 64) _mm_prefetch(codes + at, _MM_HINT_T0);
  for (std::size_t at = 0; at < head.blocks(); at += 32) _mm_prefetch(scales + at, _MM_HINT_T0);
}

void pass_2_task(void* context, std::size_t index) {
  const Candidates& candidates = *static_cast<const Candidates*>(context);
  const PackedLmHead& head = candidates.head;
  const std::size_t n = head.high.n;
  const std::size_t last = std::min((index + 1) * kCandidatesPerTask, candidates.count);
  for (std::size_t i = index * kCandidatesPerTask; i < last; ++i) {
    prefetch(head, candidates.indices[std::min(i + kPrefetchCandidates, last - 1)] % n);
    const std::size_t at = candidates.indices[i];
    candidates.out[at] +=
        low_dot(head, at % n, candidates.activations + at / n * candidates.vectors, candidates.vectors);
  }
}

float max_of(const float* values, std::size_t count) {
  __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(values + i));
  float result = _mm512_reduce_max_ps(largest);
  for (; i < count; ++i) result = std::max(result, values[i]);
  return result;
}

// Writes `first` + i for each values[i] >= least, in order, and returns how many; stores whole vectors.
std::size_t indices_of(const float* values, std::size_t count, float least, std::size_t first, std::int32_t* indices) {
  __m512i index = _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                   _mm512_set1_epi32(static_cast<int>(first)));
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 valid = count - i < kLanes ? static_cast<__mmask16>((1u << (count - i)) - 1) : __mmask16{0xffff};
    const __mmask16 match =
        _mm512_mask_cmp_ps_mask(valid, _mm512_maskz_loadu_ps(valid, values + i), _mm512_set1_ps(least), _CMP_GE_OQ);
    _mm512_storeu_si512(indices + found, _mm512_maskz_compress_epi32(match, index));
    found += static_cast<std::size_t>(__builtin_popcount(match));
    index = _mm512_add_epi32(index, _mm512_set1_epi32(kLanes));
  }
  return found;
}

// Finds the logits within `margin` of their token's largest, range of columns by range of columns, so that the low
// nibbles of a range are read once for all tokens. Returns how many.
std::size_t find_candidates(const float* out, std::size_t m, std::size_t n, float margin, std::int32_t* indices) {
  float least[kGemvMaxM];
  for (std::size_t token = 0; token < m; ++token) least[token] = max_of(out + token * n, n) - margin;
  std::size_t found = 0;
  for (std::size_t first = 0; first < n; first += kRangeColumns)
    for (std::size_t token = 0; token < m; ++token) {
      const std::size_t at = token * n + first;
      found += indices_of(out + at, std::min(kRangeColumns, n - first), least[token], at, indices + found);
    }
  return found;
}

}  // namespace

void two_pass_lm_head(const PackedLmHead& head, const float* a, std::size_t m, float* out, const Parallel& parallel,
                      Scratch& scratch) {
  const std::size_t n = head.high.n, vectors = ceil_div(head.blocks(), kBlocksPerVector);
  nbits_gemm(head.high, a, m, out, parallel, scratch);
  constexpr std::size_t kFloats = sizeof(Activations) / sizeof(float);
  auto* activations = reinterpret_cast<Activations*>(at_least(scratch, m * vectors * kFloats + m * n + kLanes));
  auto* indices = reinterpret_cast<std::int32_t*>(activations + m * vectors);
  for (std::size_t token = 0; token < m; ++token)
    quantize_token(a + token * head.high.k, head.blocks(), activations + token * vectors);
  const std::size_t count = find_candidates(out, m, n, head.margin, indices);
  Candidates candidates{head, activations, vectors, indices, count, out};
  parallel.run(parallel.self, pass_2_task, ceil_div(count, kCandidatesPerTask), &candidates);
}

}  // namespace edgekiln::EDGEKILN_ISA
