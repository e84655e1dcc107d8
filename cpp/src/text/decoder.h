// Decoder components of tokenizer.json: from token strings to text, at once or one token at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace edgekiln::text {

// Map the characters of byte-level BPE back to bytes and join them; invalid UTF-8 becomes U+FFFD.
struct DecodeByteLevel {};

// Decode runs of tokens <0x00> to <0xFF> as UTF-8; every byte of an invalid run becomes U+FFFD.
struct DecodeByteFallback {};

// Concatenate all tokens.
struct DecodeFuse {};

// Put a space between tokens, as `tokenizers` does without a decoder.
struct DecodeSpaceBetween {};

struct DecodeReplace {
  std::string text;
  std::string content;
};

// Remove up to `start` leading and `stop` trailing occurrences of the character from each token.
struct DecodeStrip {
  std::string character;
  std::size_t start;
  std::size_t stop;
};

// Replace `replacement` by a space.
struct DecodeMetaspace {
  std::string replacement;
  bool drop_first;  // in the first token, remove it instead
};

using Decoder = std::variant<DecodeByteLevel, DecodeByteFallback, DecodeFuse, DecodeSpaceBetween, DecodeReplace,
                             DecodeStrip, DecodeMetaspace>;

// Items of a stream. Until the tokens are joined, an item is a token; then it is a piece of the one text.
using Items = std::vector<std::string>;

// A component of a decoder, as a stream.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  // Add an item; those that are final are appended to `out`.
  virtual void push(std::string item, Items& out) = 0;
  // The remaining items, at the end.
  virtual void flush(Items&) {}
};

// Decodes one sequence. The texts of `push` and `flush` together are `decode` of all tokens. Text is held back while a
// later token may change it: see runtimes/text/stream.py.
class DecodeStream {
 public:
  explicit DecodeStream(const std::vector<Decoder>& components);

  // The text that no later token can change.
  std::string push(std::string_view token);

  // The remaining text, at the end of the sequence.
  std::string flush();

 private:
  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

// The text of all `tokens`.
std::string decode(const std::vector<Decoder>& components, const std::vector<std::string>& tokens);

// What a token adds between others, before bytes that are not UTF-8 are replaced. These are the bytes in which
// StopStringCriteria of transformers looks for stop strings.
std::string token_bytes(const std::vector<Decoder>& components, std::string_view token);

}  // namespace edgekiln::text
