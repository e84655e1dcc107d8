#include "runtime/base.h"

namespace edgekiln {

Result<Logits> Runtime::verify(KVCache& cache, Ids tokens, const std::stop_token& cancel) const {
  if (tokens.size() > 1) return fail(Code::kInternal, tokens.size(), " tokens to verify, the most is 1");
  return append(cache, tokens, cancel);
}

Result<void> check_ids(Ids tokens, const Properties& properties, std::int64_t held) {
  if (tokens.empty()) return fail(Code::kRequest, "prompt is empty: give at least one token");
  if (const Result<void> known = check_vocabulary(tokens, properties.vocab_size); !known) return known;
  const auto length = held + static_cast<std::int64_t>(tokens.size());
  if (length > properties.max_length) return fail(Code::kRequest, too_long(length, properties));
  return {};
}

Result<void> check_vocabulary(Ids tokens, std::int64_t vocab_size) {
  for (const std::int64_t token : tokens)
    if (token < 0 || token >= vocab_size)
      return fail(Code::kRequest, "token id ", token, " is outside the vocabulary of ", vocab_size,
                  ": check the tokenizer");
  return {};
}

}  // namespace edgekiln
