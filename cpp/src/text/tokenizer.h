// Text to token ids and back, as tokenizer.json says: what the `tokenizers` library does, byte-pair encodings only.
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

// The parts of a tokenizer.json.
struct TokenizerParts {
  Bpe model;
  std::vector<AddedToken> added;  // each with the id it has, which need not be the one in the file
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<std::int64_t> before;  // what the post-processor puts around a text
  std::vector<std::int64_t> after;
  std::vector<Decoder> decoders;
  bool joined_by_spaces = false;  // tokens, where there is no decoder
};

// Read the text of a tokenizer.json; `path` is what errors call it.
//
// An error is of Code::kEngine if it is damaged, of Code::kUnsupported if it has a part that this library does not
// know.
Result<TokenizerParts> parse_tokenizer(std::string_view text, std::string_view path);

// For any number of threads.
class Tokenizer {
 public:
  // As parse_tokenizer.
  static Result<Tokenizer> parse(std::string_view text, std::string_view path);

  // Ids of `text`; with what the post-processor adds (bos, in most) if `add_special`. Bytes that are no UTF-8 are taken
  // for U+FFFD, as by Python's `bytes.decode(errors="replace")`.
  //
  // An error of Code::kRequest if a pattern takes too many steps on the text.
  Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special) const;

  // Text of the ids, without special tokens; bytes that are no UTF-8 become U+FFFD. Ids without a token are left out.
  std::string decode(std::span<const std::int64_t> ids) const;

  // Whether the id shows in decoded text: special tokens and ids without a token never do.
  bool has_text(std::int64_t id) const;

  // The token as the vocabulary has it; an added one is normalized if it is looked for so.
  std::optional<std::string_view> token(std::int64_t id) const;

 private:
  // What an added token is in text. `tokenizers` leaves a special one out if it is so before normalization.
  struct Shown {
    std::string text;
    bool special;
    bool left_out;
  };

  Tokenizer(TokenizerParts parts, AddedTokenFinder as_given, AddedTokenFinder normalized,
            std::map<std::int64_t, Shown> added);

  // Encode what is no token before normalization, and is at the start of the text or not.
  Result<void> encode_section(std::string_view text, bool at_start, std::vector<std::int64_t>& ids) const;

  TokenizerParts parts_;
  AddedTokenFinder as_given_;
  AddedTokenFinder normalized_;
  std::map<std::int64_t, Shown> added_;
};

}  // namespace edgekiln::text
