// Blocked attention with an online softmax (Dao et al., "FlashAttention", 2022) for prefill, and attention split along
// the keys with a final merge ("Flash-Decoding", 2023) for single tokens.
//
// The query heads of one key-value head are stacked as rows of one matrix, so that keys and values are read once for
// all of them.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gemm.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr std::size_t kKeyBlock = 128;  // keys a block of prefill
constexpr std::size_t kQueryBlock = 64;  // positions a task of prefill
constexpr std::size_t kRowBlock = 96;   // rows whose scores stay in the first-level cache
constexpr std::size_t kSplit = 128;     // keys a task of decode, at least
constexpr std::size_t kMostSplits = 16;

std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// Copies head_dim floats, rotated to `position` and multiplied by `factor`.
void rotate(const AttentionCall& call, const float* __restrict from, float* __restrict to, std::size_t position,
            float factor) {
  const std::size_t half = call.rotary_dim / 2;
  const float* __restrict cosine = call.cosine + position * half;
  const float* __restrict sine = call.sine + position * half;
  if (call.interleaved) {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[2 * pair], y = from[2 * pair + 1];
      to[2 * pair] = factor * (x * cosine[pair] - y * sine[pair]);
      to[2 * pair + 1] = factor * (x * sine[pair] + y * cosine[pair]);
    }
  } else {
    for (std::size_t pair = 0; pair < half; ++pair) {
      const float x = from[pair], y = from[half + pair];
      to[pair] = factor * (x * cosine[pair] - y * sine[pair]);
      to[half + pair] = factor * (x * sine[pair] + y * cosine[pair]);
    }
  }
  for (std::size_t i = 2 * half; i < call.head_dim; ++i) to[i] = factor * from[i];
}

float* cached(const AttentionCall& call, float* cache, std::size_t row, std::size_t kv_head, std::size_t slot) {
  return cache + ((row * call.kv_heads + kv_head) * call.capacity + slot) * call.head_dim;
}

// Appends the new keys and values of one position to the cache; its rotated, scaled queries go to
// queries [batch, heads, length, head_dim].
void append(const AttentionCall& call, float* queries, std::size_t row, std::size_t s) {
  const std::size_t token = row * call.length + s, position = call.past(row) + s, dim = call.head_dim;
  for (std::size_t head = 0; head < call.heads; ++head) {
    rotate(call, call.query + token * call.query_stride + head * dim,
           queries + ((row * call.heads + head) * call.length + s) * dim, position, call.scale);
  }
  for (std::size_t head = 0; head < call.kv_heads; ++head) {
    rotate(call, call.key + token * call.key_stride + head * dim, cached(call, call.cached_key, row, head, position),
           position, 1.0f);
    std::copy_n(call.value + token * call.value_stride + head * dim, dim,
                cached(call, call.cached_value, row, head, position));
  }
}

void cap_scores(float* scores, std::size_t count, float softcap) {
  const float inverse = 1.0f / softcap;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(scores + i, tanh_of(load(scores + i) * inverse) * softcap);
  for (; i < count; ++i) scores[i] = softcap * std::tanh(scores[i] * inverse);
}

// The largest of scores[0, count); count > 0.
float largest(const float* scores, std::size_t count) {
  float result = kNone;
  std::size_t i = 0;
  if (count >= kLanes) {
    Floats best = load(scores);
    for (i = kLanes; i + kLanes <= count; i += kLanes) best = larger(best, load(scores + i));
    result = largest_lane(best);
  }
  for (; i < count; ++i) result = std::max(result, scores[i]);
  return result;
}

// scores[0, count) become e^(score - shift); their sum. Slots up to a whole vector after them are overwritten.
float exponentiate(float* scores, std::size_t count, float shift) {
  Floats sum{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats p = exp_of_negative(load(scores + i) - shift);
    store(scores + i, p);
    sum += p;
  }
  float total = sum_of_lanes(sum);
  if (i < count) {
    const Floats p = exp_of_negative(load(scores + i) - shift);
    store(scores + i, p);
    for (std::size_t lane = 0; lane < count - i; ++lane) total += p[lane];
  }
  return total;
}

template <int... Lane>
void transpose_square(const float* from, std::size_t from_stride, float* to, std::size_t to_stride,
                      std::integer_sequence<int, Lane...>) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * from_stride);
  // Swap off-diagonal blocks of halving size.
  const auto swap_blocks = [&]<int Half>() {
    for (int i = 0; i < kLanes; ++i) {
      if (i & Half) continue;
      const Floats a = rows[i], b = rows[i + Half];
      rows[i] = __builtin_shufflevector(a, b, (Lane & Half ? kLanes + Lane - Half : Lane)...);
      rows[i + Half] = __builtin_shufflevector(a, b, (Lane & Half ? kLanes + Lane : Lane + Half)...);
    }
  };
  if constexpr (kLanes >= 16) swap_blocks.template operator()<8>();
  if constexpr (kLanes >= 8) swap_blocks.template operator()<4>();
  swap_blocks.template operator()<2>();
  swap_blocks.template operator()<1>();
  for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, rows[i]);
}

// to[columns, rows padded to a whole vector with zeros] = from[rows, columns] transposed.
void transpose(const float* from, std::size_t rows, std::size_t columns, float* to, std::size_t to_stride) {
  std::size_t i = 0;
  if (columns % kLanes == 0) {
    for (; i + kLanes <= rows; i += kLanes)
      for (std::size_t j = 0; j < columns; j += kLanes)
        transpose_square(from + i * columns + j, columns, to + j * to_stride + i, to_stride,
                         std::make_integer_sequence<int, kLanes>{});
  }
  for (const std::size_t end = rounded_up(rows, kLanes); i < end; ++i)
    for (std::size_t j = 0; j < columns; ++j) to[j * to_stride + i] = i < rows ? from[i * columns + j] : 0.0f;
}

struct Prefill {
  const AttentionCall& call;
  const float* queries;
  float* workspace;
  std::size_t tasks_a_head, workspace_a_task;
};

// Rows of one task: group query heads times up to kQueryBlock positions.
std::size_t workspace_size(const AttentionCall& call) {
  const std::size_t rows = call.heads / call.kv_heads * std::min(call.length, kQueryBlock);
  const std::size_t padded = rounded_up(call.head_dim, kLanes);
  return rows * call.head_dim + rows * padded + 2 * rows + kKeyBlock * call.head_dim + kKeyBlock * padded +
         kRowBlock * kKeyBlock + kLanes;
}

void prefill_task(void* context, std::size_t index) {
  const Prefill& prefill = *static_cast<const Prefill*>(context);
  const AttentionCall& call = prefill.call;
  const std::size_t group = call.heads / call.kv_heads, dim = call.head_dim, padded = rounded_up(dim, kLanes);
  // The last positions see most keys: they are started first.
  const std::size_t block = prefill.tasks_a_head - 1 - index / (call.batch * call.kv_heads);
  const std::size_t row = index / call.kv_heads % call.batch, kv_head = index % call.kv_heads;
  const std::size_t first = block * kQueryBlock, positions = std::min(kQueryBlock, call.length - first);
  const std::size_t rows = group * positions, past = call.past(row);

  float* query = prefill.workspace + index * prefill.workspace_a_task;
  float* sum = query + rows * dim;  // [rows, padded], the weighted sum of values so far
  float* maximum = sum + rows * padded;
  float* total = maximum + rows;
  float* key = total + rows;  // [dim, kKeyBlock]
  float* value = key + kKeyBlock * dim;
  float* scores = value + kKeyBlock * padded;
  for (std::size_t head = 0; head < group; ++head) {
    std::copy_n(prefill.queries + ((row * call.heads + kv_head * group + head) * call.length + first) * dim,
                positions * dim, query + head * positions * dim);
  }
  std::fill_n(sum, rows * padded, 0.0f);
  std::fill_n(maximum, rows, kNone);
  std::fill_n(total, rows, 0.0f);

  const auto first_seen = [&](std::size_t position) {
    return call.window && position + 1 > call.window ? position + 1 - call.window : 0;
  };
  const std::size_t end = past + first + positions;
  for (std::size_t start = first_seen(past + first); start < end; start += kKeyBlock) {
    const std::size_t keys = std::min(kKeyBlock, end - start), width = rounded_up(keys, kLanes);
    transpose(cached(call, call.cached_key, row, kv_head, start), keys, dim, key, kKeyBlock);
    const float* values = cached(call, call.cached_value, row, kv_head, start);
    std::size_t value_stride = dim;
    if (padded != dim) {
      for (std::size_t i = 0; i < keys; ++i) std::copy_n(values + i * dim, dim, value + i * padded);
      values = value;
      value_stride = padded;
    }
    for (std::size_t top = 0; top < rows; top += kRowBlock) {
      const std::size_t count = std::min(kRowBlock, rows - top);
      gemm(count, width, dim, query + top * dim, dim, key, kKeyBlock, scores, kKeyBlock, false);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t position = past + first + (top + i) % positions;
        float* line = scores + i * kKeyBlock;
        const std::size_t from = std::clamp(first_seen(position), start, start + keys) - start;
        const std::size_t to = std::clamp(position + 1, start, start + keys) - start;
        if (from >= to) {
          std::fill_n(line, width, 0.0f);
          continue;
        }
        if (call.softcap != 0.0f) cap_scores(line + from, to - from, call.softcap);
        const float before = maximum[top + i], now = std::max(before, largest(line + from, to - from));
        float* sums = sum + (top + i) * padded;
        if (now > before) {
          const float fade = std::exp(before - now);
          for (std::size_t j = 0; j < padded; j += kLanes) store(sums + j, load(sums + j) * fade);
          total[top + i] *= fade;
          maximum[top + i] = now;
        }
        total[top + i] += exponentiate(line + from, to - from, now);
        std::fill_n(line, from, 0.0f);
        std::fill(line + to, line + keys, 0.0f);
      }
      gemm(count, padded, keys, scores, kKeyBlock, values, value_stride, sum + top * padded, padded, true);
    }
  }
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t head = kv_head * group + i / positions, s = first + i % positions;
    float* out = call.out + (row * call.length + s) * call.heads * dim + head * dim;
    const float inverse = 1.0f / total[i];
    for (std::size_t j = 0; j < dim; ++j) out[j] = sum[i * padded + j] * inverse;
  }
}

struct Decode {
  const AttentionCall& call;
  const float* queries;
  std::size_t splits, keys_a_split;
  float* workspace;  // for each task: sums [group, padded], maxima [group], totals [group], scores [group, keys_a_split]
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
  const float* key = cached(call, call.cached_key, row, kv_head, start);
  const float* value = cached(call, call.cached_value, row, kv_head, start);
  const float* query = decode.queries + (row * call.heads + kv_head * group) * dim;
  score_keys(query, group, key, keys, dim, scores, stride);
  for (std::size_t head = 0; head < group; ++head) {
    float* line = scores + head * stride;
    if (call.softcap != 0.0f) cap_scores(line, keys, call.softcap);
    maximum[head] = largest(line, keys);
    total[head] = exponentiate(line, keys, maximum[head]);
  }
  if (padded == dim) {
    gemm(group, dim, keys, scores, stride, value, dim, sum, padded, false);
  } else {
    for (std::size_t head = 0; head < group; ++head)
      for (std::size_t i = 0; i < keys; ++i)
        for (std::size_t j = 0; j < dim; ++j) sum[head * padded + j] += scores[head * stride + i] * value[i * dim + j];
  }
}

// Weighs the splits of one row's head by their maxima into `out`.
void merge(const Decode& decode, std::size_t row, std::size_t head) {
  const AttentionCall& call = decode.call;
  const std::size_t group = call.heads / call.kv_heads, dim = call.head_dim, padded = rounded_up(dim, kLanes);
  const float* task = decode.workspace +
                      (row * call.kv_heads + head / group) * decode.splits * decode.workspace_a_task;
  float* out = call.out + (row * call.heads + head) * dim;
  const std::size_t member = head % group;
  const auto maximum = [&](std::size_t split) { return task[split * decode.workspace_a_task + group * padded + member]; };
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
}

void run_decode(const AttentionCall& call, const Parallel& parallel, Scratch& scratch) {
  const std::size_t group = call.heads / call.kv_heads, padded = rounded_up(call.head_dim, kLanes);
  std::size_t longest = 0;
  for (std::size_t row = 0; row < call.batch; ++row) longest = std::max(longest, call.past(row) + 1);
  if (call.window) longest = std::min(longest, call.window);
  const std::size_t splits = std::clamp((longest + kSplit - 1) / kSplit, std::size_t{1}, kMostSplits);
  const std::size_t keys_a_split = rounded_up((longest + splits - 1) / splits, kLanes);
  const std::size_t workspace_a_task = group * (padded + 2 + keys_a_split + kLanes);
  const std::size_t queries = call.batch * call.heads * call.head_dim;
  const std::size_t tasks = call.batch * call.kv_heads * splits;
  if (scratch.size() < queries + tasks * workspace_a_task) scratch.resize(queries + tasks * workspace_a_task);
  for (std::size_t row = 0; row < call.batch; ++row) append(call, scratch.data(), row, 0);
  Decode decode{call, scratch.data(), splits, keys_a_split, scratch.data() + queries, workspace_a_task};
  parallel.run(parallel.self, decode_task, tasks, &decode);
  for (std::size_t row = 0; row < call.batch; ++row)
    for (std::size_t head = 0; head < call.heads; ++head) merge(decode, row, head);
}

struct Append {
  const AttentionCall& call;
  float* queries;
};

void append_task(void* context, std::size_t index) {
  const Append& append_all = *static_cast<const Append*>(context);
  append(append_all.call, append_all.queries, index / append_all.call.length, index % append_all.call.length);
}

void run_prefill(const AttentionCall& call, const Parallel& parallel, Scratch& scratch) {
  const std::size_t queries = call.batch * call.heads * call.length * call.head_dim;
  const std::size_t tasks_a_head = (call.length + kQueryBlock - 1) / kQueryBlock;
  const std::size_t tasks = tasks_a_head * call.batch * call.kv_heads, workspace_a_task = workspace_size(call);
  if (scratch.size() < queries + tasks * workspace_a_task) scratch.resize(queries + tasks * workspace_a_task);
  Append append_all{call, scratch.data()};
  parallel.run(parallel.self, append_task, call.batch * call.length, &append_all);
  Prefill prefill{call, scratch.data(), scratch.data() + queries, tasks_a_head, workspace_a_task};
  parallel.run(parallel.self, prefill_task, tasks, &prefill);
}

}  // namespace

void attention(const AttentionCall& call, const Parallel& parallel, Scratch& scratch) {
  if (call.length == 1) {
    run_decode(call, parallel, scratch);
  } else {
    run_prefill(call, parallel, scratch);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
