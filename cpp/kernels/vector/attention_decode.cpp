// Attention of few new tokens a row, split along the keys and merged at the end ("Flash-Decoding", 2023), so that every
// thread reads its part of the cache once for all query heads of a key-value head.
//
// The blocks of keys lie at fixed slots and are merged in their order, so a token's result is the same to the bit
// whether it comes alone or with others, and on however many threads: tokens that were drafted and are verified
// together get what they would have got one by one.
#include "kernels/vector/attention_phases.h"
#include "kernels/vector/gemm.h"
#if defined(__AVX512VNNI__)
#include "kernels/avx512/int8_kv_attention.h"
#endif

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kBlock = 64;                // keys
constexpr std::size_t kStride = kBlock + kLanes;  // of scores: whole vectors are written from any key
constexpr std::size_t kMostRuns = 16;
// Registers: keys * heads sums, and one vector of each key and head.
#if defined(__AVX512F__)
constexpr int kTileKeys = 4, kTileHeads = 4;
#else
constexpr int kTileKeys = 2, kTileHeads = 4;
#endif

// Of each new token: rotated queries [heads, dim], then for each head and block of keys the sum of weighted values
// [heads, blocks, padded], the largest score and the sum of weights [heads, blocks].
struct Decode {
  const AttentionArgs& call;
  float* queries = nullptr;
  float* sums = nullptr;
  float* maxima = nullptr;
  float* totals = nullptr;
  float* scores = nullptr;   // of each task, [group, kStride]
  float* weights = nullptr;  // of blocks, for merging
  std::size_t padded = 0, blocks = 0, runs = 0;
#if defined(__AVX512VNNI__)
  // Of an int8 cache, where products are of codes: each token's queries.
  CodedQuery* coded = nullptr;    // [tokens, heads]
  std::int8_t* digits = nullptr;  // [tokens, heads, 2, dim]
#endif

  // Slots [begin, end) that new token s of a row sees.
  std::size_t end(std::size_t row, std::size_t s) const { return call.past(row) + s + 1; }
  std::size_t begin(std::size_t row, std::size_t s) const {
    const std::size_t last = end(row, s);
    return call.window && last > call.window ? last - call.window : 0;
  }
  // Of all new tokens of a row.
  std::size_t first_block(std::size_t row) const { return begin(row, 0) / kBlock; }
  std::size_t blocks_of(std::size_t row) const {
    return (end(row, call.length - 1) + kBlock - 1) / kBlock - first_block(row);
  }
  std::size_t part(std::size_t token, std::size_t head, std::size_t block) const {
    return (token * call.heads + head) * blocks + block;
  }
};

// sums[head][key] += the products of kLanes-wide parts of Heads queries and kTileKeys keys, to be added across lanes.
template <int Heads, typename Element>
inline void score_tile(const float* query, const Element* const* key, std::size_t dim, Floats (*sums)[kLanes]) {
  Floats sum[Heads][kTileKeys];
#pragma GCC unroll 8
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
    for (int i = 0; i < kTileKeys; ++i) sum[head][i] = Floats{};
  for (std::size_t j = 0; j < dim; j += kLanes) {
    Floats part[kTileKeys];
#pragma GCC unroll 8
    for (int i = 0; i < kTileKeys; ++i) part[i] = load(key[i] + j);
#pragma GCC unroll 8
    for (int head = 0; head < Heads; ++head) {
      const Floats x = load(query + head * dim + j);
#pragma GCC unroll 8
      for (int i = 0; i < kTileKeys; ++i) sum[head][i] += x * part[i];
    }
  }
#pragma GCC unroll 8
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 8
    for (int i = 0; i < kTileKeys; ++i) sums[head][i] = sum[head][i];
}

// scores [Heads, keys], up to a whole vector after each row is overwritten.
template <typename Element, int Heads = kTileHeads>
inline void score_heads(std::size_t heads, const float* query, const Element* key, std::size_t keys, std::size_t dim,
                        float* scores) {
  if constexpr (Heads > 1) {
    if (heads < Heads) return score_heads<Element, Heads - 1>(heads, query, key, keys, dim, scores);
  }
  for (std::size_t i = 0; i < keys; i += kLanes) {
    Floats products[Heads][kLanes];
    for (int lane = 0; lane < kLanes; lane += kTileKeys) {
      const Element* line[kTileKeys];
      // The last key stands in for those after it, which are not read.
      for (int k = 0; k < kTileKeys; ++k) line[k] = key + std::min(i + lane + k, keys - 1) * dim;
      Floats(*to)[kLanes] = reinterpret_cast<Floats(*)[kLanes]>(&products[0][lane]);
      score_tile<Heads>(query, line, dim, to);
    }
    for (int head = 0; head < Heads; ++head) store(scores + head * kStride + i, sums(products[head]));
  }
}

// scores [group, keys], rows kStride apart, of queries [group, dim] and keys [keys, dim].
template <typename Element>
void score_keys(const float* query, std::size_t group, const Element* key, std::size_t keys, std::size_t dim,
                float* scores) {
  if (dim % kLanes == 0) {
    for (std::size_t head = 0; head < group; head += kTileHeads)
      score_heads(std::min<std::size_t>(group - head, kTileHeads), query + head * dim, key, keys, dim,
                  scores + head * kStride);
    return;
  }
  for (std::size_t i = 0; i < keys; ++i) {
    for (std::size_t head = 0; head < group; ++head) {
      float product = 0.0f;
      for (std::size_t j = 0; j < dim; ++j) product += query[head * dim + j] * key[i * dim + j];
      scores[head * kStride + i] = product;
    }
  }
}

// sum [group, dim], rows `stride` apart, of scores [group, keys] times values [keys, dim].
template <typename Element>
void sum_values(const float* scores, std::size_t group, const Element* value, std::size_t keys, std::size_t dim,
                float* sum, std::size_t stride) {
  if (dim % kLanes == 0) return gemm(group, dim, keys, scores, kStride, value, dim, sum, stride, false);
  for (std::size_t head = 0; head < group; ++head) {
    std::fill_n(sum + head * stride, rounded_up(dim, kLanes), 0.0f);
    for (std::size_t k = 0; k < keys; ++k)
      for (std::size_t j = 0; j < dim; ++j) sum[head * stride + j] += scores[head * kStride + k] * value[k * dim + j];
  }
}

// Scores of a token's query heads [first, first + group) and `keys` keys.
template <typename Element>
void score(const Decode& decode, std::size_t token, std::size_t first, std::size_t group, const Element* key,
           std::size_t keys, float* scores) {
  const std::size_t query = token * decode.call.heads + first, dim = decode.call.head_dim;
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<Element, std::int8_t>) {
    if (decode.coded)
      return score_coded_keys(decode.coded + query, decode.digits + 2 * query * dim, group, key, keys, dim, scores,
                              kStride);
  }
#endif
  score_keys(decode.queries + query * dim, group, key, keys, dim, scores);
}

template <typename Element>
void weigh(const Decode& decode, const float* scores, std::size_t group, const Element* value, std::size_t keys,
           float* sum) {
  const std::size_t dim = decode.call.head_dim, stride = decode.blocks * decode.padded;
#if defined(__AVX512VNNI__)
  if constexpr (std::is_same_v<Element, std::int8_t>) {
    if (decode.coded) return sum_coded_values(scores, kStride, group, value, keys, dim, sum, stride);
  }
#endif
  sum_values(scores, group, value, keys, dim, sum, stride);
}

// One new token against block `block` of those that its row's new tokens see.
template <typename Element>
void attend_block(const Decode& decode, std::size_t row, std::size_t kv_head, std::size_t s, std::size_t block,
                  float* scores) {
  const AttentionArgs& call = decode.call;
  const std::size_t group = call.heads / call.kv_heads, token = row * call.length + s;
  const std::size_t slot = (decode.first_block(row) + block) * kBlock;
  const std::size_t start = std::max(decode.begin(row, s), slot), end = std::min(decode.end(row, s), slot + kBlock);
  const std::size_t part = decode.part(token, kv_head * group, block);
  if (start >= end) return;
  const std::size_t keys = end - start, offset = offset_of(call, row, kv_head, start);
  score(decode, token, kv_head * group, group, static_cast<const Element*>(call.key_cache.data) + offset, keys, scores);
  for (std::size_t head = 0; head < group; ++head) {
    float* line = scores + head * kStride;
    if (call.softcap != 0.0f) cap_scores(line, keys, call.softcap);
    float& maximum = decode.maxima[part + head * decode.blocks];
    maximum = largest(line, keys);
    decode.totals[part + head * decode.blocks] = exponentiate(line, keys, maximum);
  }
  weigh(decode, scores, group, static_cast<const Element*>(call.value_cache.data) + offset, keys,
        decode.sums + part * decode.padded);
}

void decode_task(void* context, std::size_t index) {
  const Decode& decode = *static_cast<const Decode*>(context);
  const AttentionArgs& call = decode.call;
  const std::size_t run = index % decode.runs, kv_head = index / decode.runs % call.kv_heads;
  const std::size_t row = index / decode.runs / call.kv_heads, blocks = decode.blocks_of(row);
  float* scores = decode.scores + index * (call.heads / call.kv_heads) * kStride;
  const auto attend = call.key_cache.scales ? attend_block<std::int8_t> : attend_block<float>;
  for (std::size_t block = run * blocks / decode.runs; block < (run + 1) * blocks / decode.runs; ++block)
    for (std::size_t s = 0; s < call.length; ++s) attend(decode, row, kv_head, s, block, scores);
}

// Weighs the blocks of one token's head by their largest scores into `out`.
void merge(const Decode& decode, std::size_t row, std::size_t s, std::size_t head) {
  const AttentionArgs& call = decode.call;
  const std::size_t token = row * call.length + s, first = decode.begin(row, s) / kBlock - decode.first_block(row);
  const std::size_t count = (decode.end(row, s) - 1) / kBlock - decode.first_block(row) + 1 - first;
  const std::size_t part = decode.part(token, head, first);
  float* weights = decode.weights;
  std::copy_n(decode.maxima + part, count, weights);
  exponentiate(weights, count, largest(weights, count));
  float total = 0.0f;
  for (std::size_t i = 0; i < count; ++i) total += weights[i] * decode.totals[part + i];
  const float inverse = 1.0f / total;
  for (std::size_t i = 0; i < count; ++i) weights[i] *= inverse;
  float* sum = decode.sums + part * decode.padded;
  for (std::size_t j = 0; j < decode.padded; j += kLanes) {
    Floats weighted{};
    for (std::size_t i = 0; i < count; ++i) weighted += load(sum + i * decode.padded + j) * weights[i];
    store(sum + j, weighted);
  }
  float* out = call.out + (token * call.heads + head) * call.head_dim;
  std::copy_n(sum, call.head_dim, out);
  apply_scales(call, call.value_cache, head / (call.heads / call.kv_heads), out);
}

}  // namespace

void attention_decode(const AttentionArgs& call, const Parallel& parallel, Scratch& scratch) {
  Decode decode{call};
  decode.padded = rounded_up(call.head_dim, kLanes);
  for (std::size_t row = 0; row < call.batch; ++row) decode.blocks = std::max(decode.blocks, decode.blocks_of(row));
  decode.runs = std::min(decode.blocks, kMostRuns);
  const std::size_t tokens = call.batch * call.length, queries = tokens * call.heads * call.head_dim;
  const std::size_t parts = tokens * call.heads * decode.blocks, tasks = call.batch * call.kv_heads * decode.runs;
  std::size_t size =
      queries + parts * (decode.padded + 2) + decode.blocks + kLanes + tasks * (call.heads / call.kv_heads) * kStride;
#if defined(__AVX512VNNI__)
  const bool coded = call.key_cache.scales && call.head_dim % kCodes == 0 && call.head_dim <= kMostCodes;
  const std::size_t coded_at = size;
  if (coded) size += queries / 2 + tokens * call.heads * sizeof(CodedQuery) / sizeof(float);
#endif
  decode.queries = at_least(scratch, size);
  decode.sums = decode.queries + queries;
  decode.scores = decode.sums + parts * decode.padded;
  decode.totals = decode.scores + tasks * (call.heads / call.kv_heads) * kStride;
  decode.maxima = decode.totals + parts;
  decode.weights = decode.maxima + parts;
  for (std::size_t row = 0; row < call.batch; ++row)
    for (std::size_t s = 0; s < call.length; ++s)
      append(call, decode.queries + (row * call.length + s) * call.heads * call.head_dim, call.head_dim, row, s);
#if defined(__AVX512VNNI__)
  if (coded) {
    decode.coded = reinterpret_cast<CodedQuery*>(decode.queries + coded_at);
    decode.digits = reinterpret_cast<std::int8_t*>(decode.coded + tokens * call.heads);
    for (std::size_t i = 0; i < tokens * call.heads; ++i)
      decode.coded[i] =
          code_query(decode.queries + i * call.head_dim, call.head_dim, decode.digits + 2 * i * call.head_dim);
  }
#endif
  parallel.run(parallel.self, decode_task, tasks, &decode);
  for (std::size_t row = 0; row < call.batch; ++row)
    for (std::size_t s = 0; s < call.length; ++s)
      for (std::size_t head = 0; head < call.heads; ++head) merge(decode, row, s, head);
}

}  // namespace edgekiln::EDGEKILN_ISA
