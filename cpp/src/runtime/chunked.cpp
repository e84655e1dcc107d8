#include "runtime/chunked.h"

#include <algorithm>
#include <new>
#include <vector>

namespace edgekiln {

namespace {

Failure cancelled() { return fail(Code::kCancelled, "the answer was cancelled"); }

}  // namespace

Result<Logits> ChunkedRuntime::append(KVCache& cache, Ids tokens, const std::stop_token& cancel) const {
  auto& own = static_cast<ChunkedKVCache&>(cache);
  if (Result<void> checked = check_ids(tokens, properties(), own.length()); !checked)
    return std::unexpected(checked.error());
  try {
    std::vector<std::int64_t> all;
    const std::int64_t total = own.length() + static_cast<std::int64_t>(tokens.size());
    if (own.is_stale(total)) {
      all.assign(own.tokens().begin(), own.tokens().end());
      all.insert(all.end(), tokens.begin(), tokens.end());
      own.rewind(0);
      tokens = all;
    }
    own.set_sequence_length(total);
    const auto size = static_cast<std::int64_t>(tokens.size());
    if (Result<void> reserved = own.reserve(own.length() + size); !reserved) return std::unexpected(reserved.error());
    if (Result<void> begun = size > 1 ? own.begin_prompt() : Result<void>(); !begun)
      return std::unexpected(begun.error());
    for (std::size_t start = 0; start < tokens.size(); start += chunk_) {
      if (cancel.stop_requested()) return cancelled();
      const Ids chunk = tokens.subspan(start, std::min(chunk_, tokens.size() - start));
      if (Result<void> ran = own.run(chunk, cancel); !ran) {
        if (cancel.stop_requested()) return cancelled();
        return std::unexpected(ran.error());
      }
      own.append(chunk);
      if (Result<void> taken = own.snapshot_if_due(); !taken) return std::unexpected(taken.error());
    }
    if (Result<void> ended = size > 1 ? own.end_prompt() : Result<void>(); !ended)
      return std::unexpected(ended.error());
  } catch (const std::bad_alloc&) {
    return fail(Code::kMemory, "no memory to run ", tokens.size(), " tokens: close other sessions");
  }
  return own.logits();
}

}  // namespace edgekiln
