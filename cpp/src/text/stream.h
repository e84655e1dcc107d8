// Streaming detokenization: the text of token ids that arrive one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "generate/generate.h"
#include "text/decoder.h"
#include "text/tokenizer.h"

namespace edgekiln::text {

// Never splits a character. The concatenation of all texts is the decoding of all ids that are not hidden. The work for
// a token does not grow with the text.
class StreamingDecoder : public TextStream {
 public:
  // `tokenizer` must outlive this. `special_tokens`: kHide leaves out special tokens, as Tokenizer::decode does; the
  // others leave out only ids that are `hidden`.
  explicit StreamingDecoder(const Tokenizer& tokenizer, SpecialTokensChoice special_tokens = SpecialTokensChoice::kHide,
                            std::set<std::int64_t> hidden = {});

  std::string push(std::int64_t token) override;
  std::string flush() override;
  std::string token_bytes(std::int64_t token) const override;
  std::string end_within(std::int64_t token, std::size_t size) override;

 private:
  // The string of a token; empty if it is not shown.
  std::optional<std::string_view> shown(std::int64_t token) const;

  const Tokenizer& tokenizer_;
  const SpecialTokensChoice special_tokens_;
  const std::set<std::int64_t> hidden_;
  DecodeStream decoder_;
};

}  // namespace edgekiln::text
