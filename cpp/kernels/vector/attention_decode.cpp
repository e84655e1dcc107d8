// Decode attention: few new tokens a sequence. The keys are split among the threads and partial results merged at the
// end (Dao et al., "Flash-Decoding for long-context inference", 2023), so that each thread reads its part of the cache
// once for all query heads of a key-value head.
//
// Blocks of keys begin at fixed positions and are merged in order. A token's result therefore has the same bits on any
// number of threads, and whether tokens are decoded one by one or verified together in speculative decoding.
#include "kernels/common/aligned.h"
#include "kernels/common/prefetch.h"
#include "kernels/packed/int8_kv_attention.h"
#include "kernels/vector/attention_phases.h"
#include "kernels/vector/attention_products.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kMaxSplits = 16;

// Partial results of all blocks of keys. A task computes one split: some blocks of one sequence and key-value head.
struct Decode {
  const AttentionArgs& args;
  float* queries = nullptr;  // [tokens, heads, dim], rotated and scaled
  float* sums = nullptr;     // [tokens, heads, blocks, padded], sums of weighted values
  float* maxima = nullptr;   // [tokens, heads, blocks], maxima of scores
  float* totals = nullptr;   // [tokens, heads, blocks], sums of weights
  float* scores = nullptr;   // [tasks, group, kScoreStride], scratch
  std::size_t padded = 0, blocks = 0, splits = 0;
#if defined(EDGEKILN_INT8_KV_ATTENTION)
  // Quantized queries for an int8 cache; null for a float cache.
  QuantizedQuery* quantized = nullptr;  // [tokens, heads]
  std::int8_t* parts = nullptr;         // [tokens, heads, 2 * dim]
#endif

  // Positions [begin, end) that new token s of a sequence attends to.
  std::size_t end(std::size_t sequence, std::size_t s) const { return args.past(sequence) + s + 1; }
  std::size_t begin(std::size_t sequence, std::size_t s) const {
    const std::size_t last = end(sequence, s);
    return args.window && last > args.window ? last - args.window : 0;
  }
  // The blocks of keys that any new token of a sequence attends to.
  std::size_t first_block(std::size_t sequence) const { return begin(sequence, 0) / kKeysPerBlock; }
  std::size_t block_count(std::size_t sequence) const {
    return (end(sequence, args.length - 1) + kKeysPerBlock - 1) / kKeysPerBlock - first_block(sequence);
  }
  // Into arrays [tokens, heads, blocks].
  std::size_t index(std::size_t token, std::size_t head, std::size_t block) const {
    return (token * args.heads + head) * blocks + block;
  }
};

// A task: blocks [first, last) of the keys of one sequence and key-value head.
struct Split {
  std::size_t sequence, kv_head, first, last;
};

Split split_of(const Decode& decode, std::size_t task) {
  const std::size_t split = task % decode.splits, head = task / decode.splits;
  const std::size_t sequence = head / decode.args.kv_heads, blocks = decode.block_count(sequence);
  return {sequence, head % decode.args.kv_heads, split * blocks / decode.splits, (split + 1) * blocks / decode.splits};
}

// Keys of a block in the cache.
template <typename Element>
struct Keys {
  const Element* first;
  std::size_t count;
};

// The keys of a split's block, of which a sequence's last block may have fewer than kKeysPerBlock.
template <typename Element>
Keys<Element> keys_of(const Decode& decode, const Split& split, std::size_t block) {
  const AttentionArgs& args = decode.args;
  const std::size_t first = (decode.first_block(split.sequence) + block) * kKeysPerBlock;
  const std::size_t end = decode.end(split.sequence, args.length - 1);
  return {static_cast<const Element*>(args.key_cache.data) + cache_offset(args, split.sequence, split.kv_head, first),
          std::min(end - first, kKeysPerBlock)};
}

// The keys that are read after a split's block: of its next one, or of the next task's first one.
template <typename Element>
Keys<Element> next_keys(const Decode& decode, const Split& split, std::size_t block, std::size_t task,
                        std::size_t tasks) {
  if (block + 1 < split.last) return keys_of<Element>(decode, split, block + 1);
  if (task + 1 == tasks) return {};
  const Split next = split_of(decode, task + 1);
  return next.first < next.last ? keys_of<Element>(decode, next, next.first) : Keys<Element>{};
}

// Fetches rows of a cache: the hardware prefetchers start too late for blocks of so few bytes.
template <typename Element>
[[gnu::always_inline]] inline void prefetch_rows(const Element* first, std::size_t rows, std::size_t dim) {
  prefetch_to_l2(first, rows * dim * sizeof(Element));
}

// Scores of `keys` keys, for a token's query heads [first, first + group).
template <typename Element>
void score(const Decode& decode, std::size_t token, std::size_t first, std::size_t group, const Element* key,
           std::size_t keys, float* scores) {
  const std::size_t query = token * decode.args.heads + first, dim = decode.args.head_dim;
#if defined(EDGEKILN_INT8_KV_ATTENTION)
  if constexpr (std::is_same_v<Element, std::int8_t>) {
    if (decode.quantized)
      return int8_scores(decode.quantized + query, decode.parts + 2 * query * dim, group, key, keys, dim, scores,
                         kScoreStride);
  }
#endif
  score_keys(decode.queries + query * dim, group, key, keys, dim, scores);
}

// The sum of `keys` values, weighted for `group` query heads, in the rows of a block of decode.sums.
template <typename Element>
void weighted_sum(const Decode& decode, const float* weights, std::size_t group, const Element* value, std::size_t keys,
                  float* sum) {
  const std::size_t dim = decode.args.head_dim, stride = decode.blocks * decode.padded;
#if defined(EDGEKILN_INT8_KV_ATTENTION)
  if constexpr (std::is_same_v<Element, std::int8_t>) {
    if (decode.quantized) return int8_weighted_sum(weights, kScoreStride, group, value, keys, dim, sum, stride);
  }
#endif
  sum_values(weights, group, value, keys, dim, sum, stride);
}

// Partial attention of new token s to block `block` of keys, counted from its sequence's first block. Meanwhile fetches
// the block's values and the `next` keys, if not null, a part at a time.
template <typename Element>
void attend_block(const Decode& decode, std::size_t sequence, std::size_t kv_head, std::size_t s, std::size_t block,
                  float* scores, const Keys<Element>* next) {
  const AttentionArgs& args = decode.args;
  const std::size_t group = args.heads / args.kv_heads, token = sequence * args.length + s, dim = args.head_dim;
  const std::size_t first = (decode.first_block(sequence) + block) * kKeysPerBlock;
  const std::size_t start = std::max(decode.begin(sequence, s), first),
                    end = std::min(decode.end(sequence, s), first + kKeysPerBlock);
  const std::size_t at = decode.index(token, kv_head * group, block);
  if (start >= end) return;
  const std::size_t keys = end - start, offset = cache_offset(args, sequence, kv_head, start);
  const Element* key = static_cast<const Element*>(args.key_cache.data) + offset;
  const Element* value = static_cast<const Element*>(args.value_cache.data) + offset;
  if (next) prefetch_rows(value, keys, dim);
  score(decode, token, kv_head * group, group, key, keys, scores);
  for (std::size_t head = 0; head < group; ++head) {
    float* head_scores = scores + head * kScoreStride;
    if (next) {
      const std::size_t from = head * next->count / group, to = (head + 1) * next->count / group;
      prefetch_rows(next->first + from * dim, to - from, dim);
    }
    if (args.softcap != 0.0f) cap_scores(head_scores, keys, args.softcap);
    add_bias(args, sequence, kv_head * group + head, s, start, head_scores, keys);
    float& maximum = decode.maxima[at + head * decode.blocks];
    maximum = max_score(head_scores, keys);
    decode.totals[at + head * decode.blocks] = exp_scores(head_scores, keys, maximum);
  }
  weighted_sum(decode, scores, group, value, keys, decode.sums + at * decode.padded);
}

template <typename Element>
void decode_split(const Decode& decode, std::size_t task, std::size_t tasks) {
  const AttentionArgs& args = decode.args;
  const Split split = split_of(decode, task);
  float* scores = decode.scores + task * (args.heads / args.kv_heads) * kScoreStride;
  for (std::size_t block = split.first; block < split.last; ++block) {
    const Keys<Element> next = next_keys<Element>(decode, split, block, task, tasks);
    for (std::size_t s = 0; s < args.length; ++s)
      attend_block<Element>(decode, split.sequence, split.kv_head, s, block, scores, s ? nullptr : &next);
  }
}

void decode_task(void* context, std::size_t index) {
  const Decode& decode = *static_cast<const Decode*>(context);
  const std::size_t tasks = decode.args.batch * decode.args.kv_heads * decode.splits;
  (decode.args.key_cache.scales ? decode_split<std::int8_t> : decode_split<float>)(decode, index, tasks);
}

// Merges the partial results of one token and head into `out`, each weighted by e^(its maximum - the overall maximum).
void merge(const Decode& decode, std::size_t sequence, std::size_t s, std::size_t head) {
  const AttentionArgs& args = decode.args;
  const std::size_t token = sequence * args.length + s,
                    first = decode.begin(sequence, s) / kKeysPerBlock - decode.first_block(sequence);
  const std::size_t count = (decode.end(sequence, s) - 1) / kKeysPerBlock - decode.first_block(sequence) + 1 - first;
  const std::size_t at = decode.index(token, head, first);
  thread_local Scratch memory;
  float* weights = at_least(memory, count + kLanes);
  std::copy_n(decode.maxima + at, count, weights);
  float largest = max_score(weights, count), total = 0.0f;
  if (args.sinks) {
    largest = std::max(largest, args.sinks[head]);
    total = exp_of_negative(broadcast(args.sinks[head] - largest))[0];
  }
  exp_scores(weights, count, largest);
  for (std::size_t i = 0; i < count; ++i) total = added(total, weights[i], decode.totals[at + i]);
  const float inverse = 1.0f / total;
  for (std::size_t i = 0; i < count; ++i) weights[i] *= inverse;
  float* sum = decode.sums + at * decode.padded;
  for (std::size_t j = 0; j < decode.padded; j += kLanes) {
    Floats weighted{};
    for (std::size_t i = 0; i < count; ++i)
      weighted = added(weighted, load(sum + i * decode.padded + j), broadcast(weights[i]));
    store(sum + j, weighted);
  }
  float* out = args.out + (token * args.heads + head) * args.head_dim;
  std::copy_n(sum, args.head_dim, out);
  apply_scales(args, args.value_cache, head / (args.heads / args.kv_heads), out);
}

}  // namespace

void attention_decode(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  Decode decode{args};
  decode.padded = rounded_up(args.head_dim, kLanes);
  for (std::size_t sequence = 0; sequence < args.batch; ++sequence)
    decode.blocks = std::max(decode.blocks, decode.block_count(sequence));
  decode.splits = std::min(decode.blocks, kMaxSplits);
  const std::size_t tokens = args.batch * args.length, queries = tokens * args.heads * args.head_dim;
  const std::size_t partials = tokens * args.heads * decode.blocks, tasks = args.batch * args.kv_heads * decode.splits;
  std::size_t size = queries + partials * (decode.padded + 2) + tasks * (args.heads / args.kv_heads) * kScoreStride;
#if defined(EDGEKILN_INT8_KV_ATTENTION)
  const bool quantized =
      args.key_cache.scales && args.head_dim % kInt8HeadUnit == 0 && args.head_dim <= kMaxInt8HeadDim;
  const std::size_t quantized_at = size;
  if (quantized) size += queries / 2 + tokens * args.heads * sizeof(QuantizedQuery) / sizeof(float) + kInt8HeadUnit;
#endif
  decode.queries = at_least(scratch, size);
  decode.sums = decode.queries + queries;
  decode.scores = decode.sums + partials * decode.padded;
  decode.totals = decode.scores + tasks * (args.heads / args.kv_heads) * kScoreStride;
  decode.maxima = decode.totals + partials;
#if defined(EDGEKILN_INT8_KV_ATTENTION)
  if (quantized) {
    decode.quantized = reinterpret_cast<QuantizedQuery*>(decode.queries + quantized_at);
    decode.parts = reinterpret_cast<std::int8_t*>(decode.quantized + tokens * args.heads);
  }
#endif
  const std::size_t width = args.heads * args.head_dim;
  const std::size_t cost = 8 * width;  // of a token; a head's value takes longer than in other loops over rows
  for_each_row(tokens, cost, parallel, [&](std::size_t token) {
    append_token(args, decode.queries + token * width, args.head_dim, token / args.length, token % args.length);
#if defined(EDGEKILN_INT8_KV_ATTENTION)
    if (!quantized) return;
    for (std::size_t i = token * args.heads; i < (token + 1) * args.heads; ++i)
      decode.quantized[i] =
          quantize_query(decode.queries + i * args.head_dim, args.head_dim, decode.parts + 2 * i * args.head_dim);
#endif
  });
  parallel.run(parallel.self, decode_task, tasks, &decode);
  for_each_row(tokens, cost, parallel, [&](std::size_t token) {
    for (std::size_t head = 0; head < args.heads; ++head) merge(decode, token / args.length, token % args.length, head);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
