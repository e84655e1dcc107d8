// The tokenizer of a tokenizer.json, equivalent to the `tokenizers` library. Only BPE models are implemented.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "util/result.h"

namespace edgekiln::text {

// The components of a tokenizer.json.
struct TokenizerParts {
  Bpe model;
  std::vector<AddedToken> added;  // with their effective ids, which may differ from those in the file
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<std::int64_t> before;  // ids that the post-processor adds before a text
  std::vector<std::int64_t> after;   // and after it
  std::vector<Decoder> decoders;
  bool joined_by_spaces = false;  // without a decoder, tokens are joined by spaces
};

// Parse the text of a tokenizer.json; `path` names it in errors.
//
// Errors: Code::kEngine if it is damaged, Code::kUnsupported if it has a component that is not implemented.
Result<TokenizerParts> parse_tokenizer(std::string_view text, std::string_view path);

// Immutable and therefore thread-safe.
class Tokenizer {
 public:
  // As parse_tokenizer.
  static Result<Tokenizer> parse(std::string_view text, std::string_view path);

  // Token ids of `text`. With `add_special`, the post-processor adds its tokens, usually bos. Invalid UTF-8 is replaced
  // by U+FFFD, like Python's `bytes.decode(errors="replace")`.
  //
  // An error of Code::kRequest if a pattern exceeds its step limit on the text.
  Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special) const;

  // Text of token ids. Special tokens and unknown ids are left out; invalid UTF-8 becomes U+FFFD.
  std::string decode(std::span<const std::int64_t> ids) const;

  // Whether the id contributes to decoded text: false for special tokens and unknown ids.
  bool has_text(std::int64_t id) const;

  // The token string in the vocabulary. An added token that is matched in normalized text is normalized.
  std::optional<std::string_view> token(std::int64_t id) const;

 private:
  // The decoded form of an added token. `tokenizers` leaves it out if its string equals that of a special token before
  // normalization.
  struct Shown {
    std::string text;
    bool special;
    bool left_out;
  };

  Tokenizer(TokenizerParts parts, AddedTokenFinder as_given, AddedTokenFinder normalized,
            std::map<std::int64_t, Shown> added);

  // Encode a section without added tokens. `at_start`: the section is at the start of the input.
  Result<void> encode_section(std::string_view text, bool at_start, std::vector<std::int64_t>& ids) const;

  TokenizerParts parts_;
  AddedTokenFinder as_given_;
  AddedTokenFinder normalized_;
  std::map<std::int64_t, Shown> added_;
};

}  // namespace edgekiln::text
