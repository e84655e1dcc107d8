// Attention of one new token a row, split along the keys and merged at the end ("Flash-Decoding", 2023), so that every
// thread reads its part of the cache once for all query heads of a key-value head.
#include "attention_parts.h"
#include "gemm.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kSplit = 128;    // keys a task, at least
constexpr std::size_t kKeyBlock = 64;  // keys that are converted at a time
constexpr std::size_t kMostSplits = 16;

struct Decode {
  const AttentionCall& call;
  const float* queries;
  std::size_t splits, keys_a_split;
  // For each task: sums [group, padded], maxima [group], totals [group], scores [group, keys_a_split], converted keys.
  float* workspace;
  std::size_t workspace_a_task;
};

// scores[group, keys] of queries [group, dim] and keys [keys, dim], the scores' rows `stride` apart.
void score_keys(const float* query, std::size_t group, const float* key, std::size_t keys, std::size_t dim,
                float* scores, std::size_t stride) {
  std::size_t i = 0;
  if (dim % kLanes == 0) {
    for (; i + kLanes <= keys; i += kLanes) {
      for (std::size_t head = 0; head < group; ++head) {
        Floats products[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          const float* line = key + (i + lane) * dim;
          Floats product = load(query + head * dim) * load(line);
          for (std::size_t j = kLanes; j < dim; j += kLanes) product += load(query + head * dim + j) * load(line + j);
          products[lane] = product;
        }
        store(scores + head * stride + i, sums(products));
      }
    }
  }
  for (; i < keys; ++i) {
    for (std::size_t head = 0; head < group; ++head) {
      float product = 0.0f;
      for (std::size_t j = 0; j < dim; ++j) product += query[head * dim + j] * key[i * dim + j];
      scores[head * stride + i] = product;
    }
  }
}

void decode_task(void* context, std::size_t index) {
  const Decode& decode = *static_cast<const Decode*>(context);
  const AttentionCall& call = decode.call;
  const std::size_t group = call.heads / call.kv_heads, dim = call.head_dim, padded = rounded_up(dim, kLanes);
  const std::size_t split = index % decode.splits, kv_head = index / decode.splits % call.kv_heads;
  const std::size_t row = index / decode.splits / call.kv_heads;
  float* sum = decode.workspace + index * decode.workspace_a_task;
  float* maximum = sum + group * padded;
  float* total = maximum + group;
  float* scores = total + group;
  const std::size_t stride = decode.keys_a_split + kLanes;

  const std::size_t end_of_row = call.past(row) + 1;
  const std::size_t begin_of_row = call.window && end_of_row > call.window ? end_of_row - call.window : 0;
  const std::size_t start = std::min(begin_of_row + split * decode.keys_a_split, end_of_row);
  const std::size_t keys = std::min(decode.keys_a_split, end_of_row - start);
  std::fill_n(sum, group * padded, 0.0f);
  std::fill_n(maximum, group, kNone);
  std::fill_n(total, group, 0.0f);
  if (!keys) return;
  const float* query = decode.queries + (row * call.heads + kv_head * group) * dim;
  float* floats = scores + group * stride;
  for (std::size_t i = 0; i < keys; i += kKeyBlock) {
    const std::size_t count = std::min(kKeyBlock, keys - i);
    const float* key = cached(call, call.key_cache, row, kv_head, start + i, count, floats);
    score_keys(query, group, key, count, dim, scores + i, stride);
  }
  for (std::size_t head = 0; head < group; ++head) {
    float* line = scores + head * stride;
    if (call.softcap != 0.0f) cap_scores(line, keys, call.softcap);
    maximum[head] = largest(line, keys);
    total[head] = exponentiate(line, keys, maximum[head]);
  }
  for (std::size_t i = 0; i < keys; i += kKeyBlock) {
    const std::size_t count = std::min(kKeyBlock, keys - i);
    const float* value = cached(call, call.value_cache, row, kv_head, start + i, count, floats);
    if (padded == dim) {
      gemm(group, dim, count, scores + i, stride, value, dim, sum, padded, true);
      continue;
    }
    for (std::size_t head = 0; head < group; ++head)
      for (std::size_t k = 0; k < count; ++k)
        for (std::size_t j = 0; j < dim; ++j)
          sum[head * padded + j] += scores[head * stride + i + k] * value[k * dim + j];
  }
}

// Weighs the splits of one row's head by their maxima into `out`.
void merge(const Decode& decode, std::size_t row, std::size_t head) {
  const AttentionCall& call = decode.call;
  const std::size_t group = call.heads / call.kv_heads, dim = call.head_dim, padded = rounded_up(dim, kLanes);
  const float* task = decode.workspace + (row * call.kv_heads + head / group) * decode.splits * decode.workspace_a_task;
  float* out = call.out + (row * call.heads + head) * dim;
  const std::size_t member = head % group;
  const auto maximum = [&](std::size_t split) {
    return task[split * decode.workspace_a_task + group * padded + member];
  };
  float overall = kNone, total = 0.0f;
  for (std::size_t split = 0; split < decode.splits; ++split) overall = std::max(overall, maximum(split));
  std::fill_n(out, dim, 0.0f);
  for (std::size_t split = 0; split < decode.splits; ++split) {
    const float weight = std::exp(maximum(split) - overall);
    const float* part = task + split * decode.workspace_a_task;
    total += weight * part[group * padded + group + member];
    for (std::size_t j = 0; j < dim; ++j) out[j] += weight * part[member * padded + j];
  }
  for (std::size_t j = 0; j < dim; ++j) out[j] /= total;
  apply_scales(call, call.value_cache, head / group, out);
}

}  // namespace

void attend_one(const AttentionCall& call, const Parallel& parallel, Scratch& scratch) {
  const std::size_t group = call.heads / call.kv_heads, padded = rounded_up(call.head_dim, kLanes);
  std::size_t longest = 0;
  for (std::size_t row = 0; row < call.batch; ++row) longest = std::max(longest, call.past(row) + 1);
  if (call.window) longest = std::min(longest, call.window);
  const std::size_t splits = std::clamp((longest + kSplit - 1) / kSplit, std::size_t{1}, kMostSplits);
  const std::size_t keys_a_split = rounded_up((longest + splits - 1) / splits, kLanes);
  const std::size_t workspace_a_task = group * (padded + 2 + keys_a_split + kLanes) + kKeyBlock * call.head_dim;
  const std::size_t queries = call.batch * call.heads * call.head_dim;
  const std::size_t tasks = call.batch * call.kv_heads * splits;
  if (scratch.size() < queries + tasks * workspace_a_task) scratch.resize(queries + tasks * workspace_a_task);
  for (std::size_t row = 0; row < call.batch; ++row) append(call, scratch.data(), row, 0);
  Decode decode{call, scratch.data(), splits, keys_a_split, scratch.data() + queries, workspace_a_task};
  parallel.run(parallel.self, decode_task, tasks, &decode);
  for (std::size_t row = 0; row < call.batch; ++row)
    for (std::size_t head = 0; head < call.heads; ++head) merge(decode, row, head);
}

void attend_many(const AttentionCall& call, const Parallel& parallel, Scratch& scratch);

void attention(const AttentionCall& call, const Parallel& parallel, Scratch& scratch) {
  (call.length == 1 ? attend_one : attend_many)(call, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
