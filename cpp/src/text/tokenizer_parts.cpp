// tokenizer.json's parts: each by its type, and what is of none of these refused.
#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "text/tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"
#include "util/json.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

using nlohmann::json;

// Call `take` with each part of `owner[key]`, which may be none, one, or sequences of them under `list`.
void each_part(const json& owner, const char* key, const char* list, const std::function<void(const json&)>& take) {
  const std::function<void(const json&)> visit = [&](const json& part) {
    if (string_of(part, "type") != "Sequence") return take(part);
    for (const json& inner : list_of(part, list)) visit(inner);
  };
  if (const json* part = member(owner, key)) visit(*part);
}

Pattern pattern_of(const json& part) {
  const json* pattern = member(part, "pattern");
  if (pattern == nullptr || !pattern->is_object()) damaged("a \"pattern\" is missing");
  if (member(*pattern, "String") != nullptr) {
    std::string text = string_of(*pattern, "String");
    if (text.empty()) damaged("a \"pattern\" is empty");
    return text;
  }
  Result<Regex> regex = Regex::compile(string_of(*pattern, "Regex"));
  if (!regex) throw Refused(regex.error().code, regex.error().message);
  return std::move(regex).value();
}

// A string that has to be one character.
std::string character_of(const json& part, const char* key) {
  std::string text = string_of(part, key);
  if (count_code_points(text) != 1) damaged(sentence("\"", key, "\" is not one character"));
  return text;
}

[[noreturn]] void unknown_type(const json& part, std::string_view what) {
  unsupported(sentence("a ", what, " of type ", string_of(part, "type")));
}

Normalizer normalizer_of(const json& part) {
  const std::string type = string_of(part, "type");
  if (type == "NFC") return Form::kNfc;
  if (type == "NFD") return Form::kNfd;
  if (type == "NFKC") return Form::kNfkc;
  if (type == "NFKD") return Form::kNfkd;
  if (type == "Lowercase") return Lowercase{};
  if (type == "Strip") return Strip{flag_of(part, "strip_left", true), flag_of(part, "strip_right", true)};
  if (type == "Prepend") return Prepend{string_of(part, "prepend")};
  if (type == "Replace") return Replace{pattern_of(part), string_of(part, "content")};
  unknown_type(part, "normalizer");
}

Behavior behavior_of(const json& part) {
  const std::string name = string_of(part, "behavior");
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  damaged(sentence("\"", name, "\" is no behavior of a split"));
}

Metaspace::Prepend prepend_of(const json& part) {
  if (member(part, "prepend_scheme") == nullptr) return Metaspace::Prepend::kAlways;
  const std::string name = string_of(part, "prepend_scheme");
  if (name == "always") return Metaspace::Prepend::kAlways;
  if (name == "first") return Metaspace::Prepend::kFirst;
  if (name == "never") return Metaspace::Prepend::kNever;
  damaged(sentence("\"", name, "\" is no prepend_scheme"));
}

PreTokenizer pre_tokenizer_of(const json& part) {
  const std::string type = string_of(part, "type");
  if (type == "ByteLevel") return ByteLevel{flag_of(part, "add_prefix_space", true), flag_of(part, "use_regex", true)};
  if (type == "Split") return SplitBy{pattern_of(part), behavior_of(part), flag_of(part, "invert", false)};
  if (type == "Digits") return SplitDigits{flag_of(part, "individual_digits", false)};
  if (type == "Metaspace")
    return Metaspace{character_of(part, "replacement"), prepend_of(part), flag_of(part, "split", true)};
  unknown_type(part, "pre-tokenizer");
}

Decoder decoder_of(const json& part) {
  const std::string type = string_of(part, "type");
  if (type == "ByteLevel") return DecodeByteLevel{};
  if (type == "ByteFallback") return DecodeByteFallback{};
  if (type == "Fuse") return DecodeFuse{};
  if (type == "Metaspace")
    return DecodeMetaspace{character_of(part, "replacement"), prepend_of(part) != Metaspace::Prepend::kNever};
  if (type == "Strip")
    return DecodeStrip{character_of(part, "content"), number_of(part, "start"), number_of(part, "stop")};
  if (type == "Replace") {
    const Pattern pattern = pattern_of(part);
    const std::string* text = std::get_if<std::string>(&pattern);
    if (text == nullptr) unsupported("a decoder that replaces a pattern");
    return DecodeReplace{*text, string_of(part, "content")};
  }
  unknown_type(part, "decoder");
}

void add_template(const json& part, TokenizerParts& parts) {
  const json* tokens = member(part, "special_tokens");
  if (tokens == nullptr) damaged("\"special_tokens\" is missing");
  std::vector<std::int64_t> around[2];
  bool text_seen = false;
  for (const json& piece : list_of(part, "single")) {
    if (const json* text = member(piece, "Sequence")) {
      if (text_seen || string_of(*text, "id") != "A") unsupported("a template with more than one text");
      text_seen = true;
      continue;
    }
    const json* special = member(piece, "SpecialToken");
    if (special == nullptr) damaged("a piece of a template is neither text nor token");
    const std::string name = string_of(*special, "id");
    const json* token = member(*tokens, name.c_str());
    if (token == nullptr) damaged(sentence("the template's token \"", name, "\" is missing"));
    for (const json& id : list_of(*token, "ids")) {
      if (!id.is_number_unsigned()) damaged(sentence("the template's token \"", name, "\" has no ids"));
      around[text_seen].push_back(id.get<std::int64_t>());
    }
  }
  if (!text_seen) unsupported("a template without the text");
  parts.before.insert(parts.before.begin(), around[0].begin(), around[0].end());
  parts.after.insert(parts.after.end(), around[1].begin(), around[1].end());
}

void add_post_processor(const json& part, TokenizerParts& parts) {
  const std::string type = string_of(part, "type");
  if (type == "TemplateProcessing") return add_template(part, parts);
  if (type != "ByteLevel") unknown_type(part, "post-processor");  // ByteLevel is about offsets only
}

Bpe model_of(const json& model, TokenizerJson& read) {
  const std::string type = member(model, "type") == nullptr ? "BPE" : string_of(model, "type");
  if (type != "BPE") unsupported(sentence("a model of type ", type));
  if (!read.has_vocabulary || !read.has_merges) damaged("model.vocab or model.merges is missing");
  if (const json* dropout = member(model, "dropout"); dropout != nullptr && *dropout != 0)
    unsupported("a model with dropout");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (member(model, affix) != nullptr && !string_of(model, affix).empty())
      unsupported(sentence("a model with ", affix));
  Bpe bpe;
  bpe.fuse_unknown = flag_of(model, "fuse_unk", false);
  bpe.byte_fallback = flag_of(model, "byte_fallback", false);
  bpe.ignore_merges = flag_of(model, "ignore_merges", false);
  if (member(model, "unk_token") != nullptr) bpe.unknown = read.vocabulary.id(string_of(model, "unk_token"));
  bpe.merges = Merges(read.merges.size());
  std::string_view texts = read.merge_texts;
  const auto id_of = [&read](std::string_view token) {
    const auto id = read.vocabulary.id(token);
    if (!id) damaged(sentence("the token \"", token, "\" of model.merges is not in model.vocab"));
    return *id;
  };
  std::uint32_t rank = 0;
  for (const auto& [left, right] : read.merges) {
    bpe.merges.add(id_of(texts.substr(0, left)), id_of(texts.substr(left, right)),
                   {rank++, id_of(texts.substr(0, std::size_t{left} + right))});
    texts.remove_prefix(std::size_t{left} + right);
  }
  bpe.vocabulary = std::move(read.vocabulary);
  return bpe;
}

std::vector<AddedToken> added_tokens_of(const json& root, const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (member(root, "added_tokens") == nullptr) return tokens;
  std::set<std::string, std::less<>> seen;
  std::int64_t largest = -1;
  for (const json& entry : list_of(root, "added_tokens")) {
    AddedToken token;
    token.content = string_of(entry, "content");
    token.single_word = flag_of(entry, "single_word", false);
    token.lstrip = flag_of(entry, "lstrip", false);
    token.rstrip = flag_of(entry, "rstrip", false);
    token.special = flag_of(entry, "special", false);
    token.normalized = flag_of(entry, "normalized", !token.special);
    if (token.content.empty()) continue;
    if (!seen.insert(token.content).second) damaged(sentence("the added token \"", token.content, "\" is there twice"));
    // The id in the file is not looked at, as in `tokenizers`: it is the vocabulary's or the next free one.
    const auto known = vocabulary.id(token.content);
    token.id = known ? *known
                     : static_cast<std::uint32_t>(std::max(largest + 1, static_cast<std::int64_t>(vocabulary.size())));
    largest = std::max(largest, std::int64_t{token.id});
    tokens.push_back(std::move(token));
  }
  std::stable_partition(tokens.begin(), tokens.end(), [](const AddedToken& token) { return token.special; });
  return tokens;
}

TokenizerParts parts_of(std::string_view text) {
  TokenizerJson read = read_tokenizer_json(text);
  const json& root = read.rest;
  const json* model = member(root, "model");
  if (model == nullptr) damaged("\"model\" is missing");
  TokenizerParts parts;
  parts.model = model_of(*model, read);
  parts.added = added_tokens_of(root, parts.model.vocabulary);
  each_part(root, "normalizer", "normalizers",
            [&](const json& part) { parts.normalizers.push_back(normalizer_of(part)); });
  each_part(root, "pre_tokenizer", "pretokenizers",
            [&](const json& part) { parts.pre_tokenizers.push_back(pre_tokenizer_of(part)); });
  each_part(root, "post_processor", "processors", [&](const json& part) { add_post_processor(part, parts); });
  each_part(root, "decoder", "decoders", [&](const json& part) { parts.decoders.push_back(decoder_of(part)); });
  parts.joined_by_spaces = member(root, "decoder") == nullptr;
  return parts;
}

}  // namespace

Result<TokenizerParts> parse_tokenizer(std::string_view text, std::string_view path) {
  return checked(path, [text] { return parts_of(text); });
}

}  // namespace edgekiln::text
