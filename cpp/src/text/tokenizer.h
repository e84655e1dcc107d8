// The tokenizer of a tokenizer.json, equivalent to the `tokenizers` library. Only BPE models are implemented.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/marked_text.h"
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
};

// Parse the text of a tokenizer.json; `path` names it in errors.
//
// Errors: Code::kEngine if it is damaged, Code::kUnsupported if it has a component that is not implemented.
Result<TokenizerParts> parse_tokenizer(std::string_view text, std::string_view path);

// Immutable and therefore thread-safe.
class Tokenizer {
 public:
  // As parse_tokenizer. Control tokens are the added tokens that are special or one of `turn_marks`: bos, eos and pad.
  static Result<Tokenizer> parse(std::string_view text, std::string_view path,
                                 const std::set<std::int64_t>& turn_marks = {});

  // Token ids of `text`. With `add_special`, the post-processor adds its tokens, usually bos. Invalid UTF-8 is replaced
  // by U+FFFD, like Python's `bytes.decode(errors="replace")`.
  //
  // An error of Code::kRequest if a pattern exceeds its step limit on the text, of Code::kCancelled after a request to
  // stop.
  Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special,
                                           const std::stop_token& stop = {}) const;

  // The same without the tokens of the post-processor, for a text of which parts are given: their bytes become no part
  // of a control token.
  Result<std::vector<std::int64_t>> encode(const MarkedText& text, const std::stop_token& stop = {}) const;

  // An error of Code::kRequest if `text` is certain to have more tokens, which is known before it is tokenized; its
  // message ends in `advice`.
  Result<void> check_length(std::string_view text, std::int64_t max_tokens, std::string_view advice) const;

  // Text of token ids. Special tokens and unknown ids are left out; invalid UTF-8 becomes U+FFFD.
  std::string decode(std::span<const std::int64_t> ids) const;

  // Whether `decode` leaves the id out, because it is a special token.
  bool is_special(std::int64_t id) const;

  // UTF-8 that an id adds to a text between others, special tokens included; parts of characters are possible.
  std::string token_bytes(std::int64_t id) const;

  // From token strings to text.
  const std::vector<Decoder>& decoders() const { return parts_.decoders; }

  // The token string in the vocabulary. An added token that is matched in normalized text is normalized.
  std::optional<std::string_view> token(std::int64_t id) const;

 private:
  // The decoded form of an added token. `tokenizers` leaves it out if its string equals that of a special token before
  // normalization.
  struct Shown {
    std::string text;
    bool left_out;
  };

  Tokenizer(TokenizerParts parts, AddedTokenFinder as_given, AddedTokenFinder normalized,
            std::map<std::int64_t, Shown> added);

  // Encode valid UTF-8. `marks` are those of a MarkedText, or empty.
  Result<void> encode_all(std::string_view text, std::string_view marks, const std::stop_token& stop,
                          std::vector<std::int64_t>& ids) const;

  // The normalized text of a section, with marks if they matter in it.
  Result<MarkedText> normalize_section(std::string_view text, std::string_view marks) const;

  // Encode a section without added tokens that are matched before normalization. `at_start`: the section is at the
  // start of the input.
  Result<void> encode_section(std::string_view text, std::string_view marks, bool at_start, const std::stop_token& stop,
                              std::vector<std::int64_t>& ids) const;

  TokenizerParts parts_;
  AddedTokenFinder as_given_;
  AddedTokenFinder normalized_;
  std::map<std::int64_t, Shown> added_;
  std::set<std::int64_t> control_;  // ids of the control tokens
};

}  // namespace edgekiln::text
