// Text of ids that come one by one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generate/generate.h"
#include "text/tokenizer.h"

namespace edgekiln::text {

// Never splits a character; all pieces together are what Tokenizer::decode gives for all ids.
//
// Decoding a token alone loses the spaces SentencePiece puts before words, so the tokens of the last piece are decoded
// again in front of the new ones and their text is cut off. Only those are: the cost a token is constant.
class StreamingDecoder : public TextStream {
 public:
  // `tokenizer` must outlive this.
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The text that `token` completes; empty while a character lacks bytes.
  std::string push(std::int64_t token) override;

  // What is left at the end; an unfinished character becomes U+FFFD.
  std::string flush() override;

 private:
  // The new part of `text`, which the first `count` tokens of the window decode to.
  std::string give(std::size_t count, const std::string& text);
  std::string decode(std::size_t count) const;

  const Tokenizer& tokenizer_;
  std::vector<std::int64_t> window_;
  std::size_t given_ = 0;             // tokens at the window's start whose text has been given
  std::size_t given_characters_ = 0;  // how many they decode to
};

}  // namespace edgekiln::text
