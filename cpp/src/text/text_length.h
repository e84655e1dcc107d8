// The fewest tokens that a text can have, from its length alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "text/tokenizer.h"
#include "util/result.h"

namespace edgekiln::text {

// The most characters that one token stands for; empty if that is not bounded or not known: where a normalizer or
// pre-tokenizer drops some, where added tokens take the white space around them, or where unknown characters are fused
// or dropped.
std::optional<std::size_t> most_characters(const TokenizerParts& parts);

// An error of Code::kRequest if `text` is certain to have more than `max_tokens` tokens: it need not be tokenized,
// which takes long for a text of millions of characters. `advice`: the end of the message, what to do about it.
Result<void> check_length(const TokenizerParts& parts, std::string_view text, std::int64_t max_tokens,
                          std::string_view advice);

}  // namespace edgekiln::text
