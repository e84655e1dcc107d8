// Streaming detokenization: the text of token ids that arrive one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generate/generate.h"
#include "text/tokenizer.h"

namespace edgekiln::text {

// Never splits a character. The concatenation of all texts is Tokenizer::decode of all ids.
//
// Decoding a token alone would lose the spaces that SentencePiece puts before words. So the tokens of the last text
// that was emitted are kept as context: they are decoded again together with the new tokens, and their text is cut off.
// The cost per token is constant.
class StreamingDecoder : public TextStream {
 public:
  // `tokenizer` must outlive this.
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The text that `token` completes; empty while a character lacks bytes.
  std::string push(std::int64_t token) override;

  // The remaining text at the end of the sequence; an unfinished character becomes U+FFFD.
  std::string flush() override;

 private:
  // The part of `text` after the context. `text` is the decoding of the first `count` tokens of the window.
  std::string emit(std::size_t count, const std::string& text);
  std::string decode(std::size_t count) const;

  const Tokenizer& tokenizer_;
  std::vector<std::int64_t> window_;
  std::size_t context_ = 0;             // tokens at the window's start whose text was emitted
  std::size_t context_characters_ = 0;  // code points that they decode to
};

}  // namespace edgekiln::text
