// Blocked attention with an online softmax (Dao et al., "FlashAttention", 2022).
//
// The query heads of one key-value head are stacked as rows of one matrix, so that keys and values are read once for
// all of them.
#pragma once

#include "kernels/vector/online_softmax.h"
#include "kernels/vector/prefill_operands.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

inline constexpr std::size_t kKeyBlock = 128;   // keys a block
inline constexpr std::size_t kQueryBlock = 64;  // positions a task
inline constexpr std::size_t kRowUnit = 16;     // memory is for whole ones

struct Prefill {
  const AttentionArgs& call;
  const float* queries;
  std::size_t tasks_a_head, workspace;
};

// Of one task, whose rows are group query heads times up to kQueryBlock positions.
inline std::size_t workspace_size(const AttentionArgs& call, std::size_t row_block) {
  const std::size_t rows = rounded_up(call.heads / call.kv_heads * std::min(call.length, kQueryBlock), kRowUnit);
  const std::size_t padded = rounded_up(call.head_dim, kLanes);
  return rows * call.head_dim + rows * padded + 2 * rows + 3 * kKeyBlock * call.head_dim + kKeyBlock * padded +
         row_block * kKeyBlock + kLanes;
}

template <typename Operands>
void prefill_task(void* context, std::size_t index) {
  using Word = typename Operands::Word;
  static_assert(sizeof(Word) == sizeof(float));
  constexpr std::size_t numbers = Operands::kNumbers;
  const Prefill& prefill = *static_cast<const Prefill*>(context);
  const AttentionArgs& call = prefill.call;
  const std::size_t group = call.heads / call.kv_heads, dim = call.head_dim, padded = rounded_up(dim, kLanes);
  // The last positions see most keys: they are started first.
  const std::size_t block = prefill.tasks_a_head - 1 - index / (call.batch * call.kv_heads);
  const std::size_t row = index / call.kv_heads % call.batch, kv_head = index % call.kv_heads;
  const std::size_t first = block * kQueryBlock, positions = std::min(kQueryBlock, call.length - first);
  const std::size_t rows = group * positions, held = rounded_up(rows, kRowUnit), past = call.past(row);

  thread_local Scratch workspace;
  float* memory = at_least(workspace, prefill.workspace);
  const auto words = [](float* at) { return reinterpret_cast<Word*>(at); };
  Word* query = words(memory);
  float* sum = memory + held * dim;  // [rows, padded], the weighted sum of values so far
  float* maximum = sum + held * padded;
  float* total = maximum + held;
  float* key = total + held;  // [dim / numbers, kKeyBlock]
  float* value = key + kKeyBlock * dim;
  float* floats = value + kKeyBlock * padded;
  float* copies = floats + kKeyBlock * dim;
  float* scores = copies + kKeyBlock * dim;
  const std::size_t depth = dim / numbers;
  for (std::size_t head = 0; head < group; ++head) {
    Operands::rows(prefill.queries + ((row * call.heads + kv_head * group + head) * call.length + first) * dim,
                   positions * dim, query + head * positions * depth);
  }
  std::fill_n(sum, held * padded, 0.0f);
  std::fill_n(maximum, held, kNone);
  std::fill_n(total, held, 0.0f);

  const auto first_seen = [&](std::size_t position) {
    return call.window && position + 1 > call.window ? position + 1 - call.window : 0;
  };
  [[maybe_unused]] const typename Operands::Unit unit;
  const std::size_t end = past + first + positions;
  for (std::size_t start = first_seen(past + first); start < end; start += kKeyBlock) {
    const std::size_t keys = std::min(kKeyBlock, end - start), width = rounded_up(keys, kLanes);
    const std::size_t whole = rounded_up(keys, numbers * kLanes);
    Operands::keys(cached(call, call.key_cache, row, kv_head, start, keys, floats), keys, dim, words(key), kKeyBlock,
                   copies);
    const Word* values = Operands::values(cached(call, call.value_cache, row, kv_head, start, keys, floats), keys, dim,
                                          padded, words(value));
    for (std::size_t top = 0; top < rows; top += Operands::kRowBlock) {
      const std::size_t count = std::min(Operands::kRowBlock, rows - top);
      Operands::multiply(count, width, depth, query + top * depth, depth, words(key), kKeyBlock, scores, kKeyBlock,
                         false);
      for (std::size_t i = 0; i < count; i += kLanes) {
        Seen seen[kLanes]{};
        for (std::size_t lane = 0; lane < std::min<std::size_t>(kLanes, count - i); ++lane) {
          const std::size_t position = past + first + (top + i + lane) % positions;
          seen[lane] = {std::clamp(first_seen(position), start, start + keys) - start,
                        std::clamp(position + 1, start, start + keys) - start};
          if (call.softcap != 0.0f)
            cap_scores(scores + (i + lane) * kKeyBlock + seen[lane].from, seen[lane].to - seen[lane].from,
                       call.softcap);
        }
        weigh(scores + i * kKeyBlock, kKeyBlock, seen, whole, maximum + top + i, total + top + i,
              sum + (top + i) * padded, padded);
        for (int lane = 0; lane < kLanes; ++lane) Operands::weights(scores + (i + lane) * kKeyBlock, keys);
      }
      Operands::multiply(count, padded, (keys + numbers - 1) / numbers, words(scores), kKeyBlock, values, padded,
                         sum + top * padded, padded, true);
    }
  }
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t head = kv_head * group + i / positions, s = first + i % positions;
    float* out = call.out + (row * call.length + s) * call.heads * dim + head * dim;
    const float inverse = 1.0f / total[i];
    for (std::size_t j = 0; j < dim; ++j) out[j] = sum[i * padded + j] * inverse;
    apply_scales(call, call.value_cache, kv_head, out);
  }
}

struct Append {
  const AttentionArgs& call;
  float* queries;  // [batch, heads, length, head_dim]
};

inline void append_task(void* context, std::size_t index) {
  const Append& append_all = *static_cast<const Append*>(context);
  const AttentionArgs& call = append_all.call;
  const std::size_t row = index / call.length, s = index % call.length;
  append(call, append_all.queries + (row * call.heads * call.length + s) * call.head_dim, call.length * call.head_dim,
         row, s);
}

}  // namespace detail

// Causal attention of a prompt, with operands of one type.
template <typename Operands>
void prefill(const AttentionArgs& call, const Parallel& parallel, Scratch& scratch) {
  const std::size_t tasks_a_head = (call.length + detail::kQueryBlock - 1) / detail::kQueryBlock;
  detail::Append append_all{call, at_least(scratch, call.batch * call.heads * call.length * call.head_dim)};
  parallel.run(parallel.self, detail::append_task, call.batch * call.length, &append_all);
  detail::Prefill all{call, append_all.queries, tasks_a_head, detail::workspace_size(call, Operands::kRowBlock)};
  parallel.run(parallel.self, detail::prefill_task<Operands>, tasks_a_head * call.batch * call.kv_heads, &all);
}

}  // namespace edgekiln::EDGEKILN_ISA
