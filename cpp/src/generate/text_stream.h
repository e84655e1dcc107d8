// The detokenizer of the generate loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace edgekiln {

// The special tokens in a text. The values equal those of `edgekiln_special_tokens` in the C API.
enum class SpecialTokensChoice {
  kAuto = 0,  // all but turn marks, which are bos, eos and pad
  kShow = 1,  // all
  kHide = 2,  // none
};

// Incremental detokenizer that never splits a character.
class TextStream {
 public:
  virtual ~TextStream() = default;

  // The text that `token` completes, often none.
  virtual std::string push(std::int64_t token) = 0;

  // The remaining text at the end of the sequence; an unfinished character becomes U+FFFD.
  virtual std::string flush() = 0;

  // UTF-8 that `token` adds to a text between others, also if it is not shown; parts of characters are possible.
  virtual std::string token_bytes(std::int64_t token) const = 0;

  // The remaining text if the sequence ends after the first `size` bytes of `token`, as in token_bytes.
  virtual std::string end_within(std::int64_t token, std::size_t size) = 0;
};

}  // namespace edgekiln
