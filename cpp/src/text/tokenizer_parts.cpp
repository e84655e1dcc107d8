// Components of tokenizer.json, selected by their "type". Types that are not implemented are refused.
#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <utility>

#include "text/tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"
#include "util/json_reader.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

// Call `visit` with each component of `owner[key]`: none, one, or those of nested Sequences, which list them as `list`.
void each_component(JsonObject& owner, const char* key, const char* list,
                    const std::function<void(JsonObject&)>& visit) {
  const std::function<void(JsonObject&)> expand = [&](JsonObject& part) {
    if (part.string("type") != "Sequence") return visit(part);
    for (JsonObject& inner : part.objects(list)) expand(inner);
  };
  if (std::optional<JsonObject> part = owner.optional_object(key)) expand(*part);
}

Pattern pattern_of(JsonObject& part) {
  JsonObject pattern = part.object("pattern");
  if (pattern.has("String")) {
    std::string text = pattern.string("String");
    if (text.empty()) pattern.refuse("String", "it is empty");
    return text;
  }
  Result<Regex> regex = Regex::compile(pattern.string("Regex"));
  if (!regex) throw JsonError(regex.error().code, regex.error().message);
  return std::move(regex).value();
}

// A string of exactly one code point.
std::string character_of(JsonObject& part, const char* key) {
  std::string text = part.string(key);
  if (count_code_points(text) != 1) part.refuse(key, "it is not one character");
  return text;
}

[[noreturn]] void unknown_type(JsonObject& part, std::string_view component) {
  unsupported(str_cat("a ", component, " of type ", part.string("type")));
}

Normalizer normalizer_of(JsonObject& part) {
  const std::string type = part.string("type");
  if (type == "NFC") return Form::kNfc;
  if (type == "NFD") return Form::kNfd;
  if (type == "NFKC") return Form::kNfkc;
  if (type == "NFKD") return Form::kNfkd;
  if (type == "Lowercase") return Lowercase{};
  if (type == "Strip") return Strip{part.boolean_or("strip_left", true), part.boolean_or("strip_right", true)};
  if (type == "Prepend") return Prepend{part.string("prepend")};
  if (type == "Replace") return Replace{pattern_of(part), part.string("content")};
  unknown_type(part, "normalizer");
}

Behavior behavior_of(JsonObject& part) {
  const std::string name = part.string("behavior");
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  part.refuse("behavior", name + " is not known");
}

Metaspace::Prepend prepend_of(JsonObject& part) {
  const std::string name = part.string_or("prepend_scheme", "always");
  if (name == "always") return Metaspace::Prepend::kAlways;
  if (name == "first") return Metaspace::Prepend::kFirst;
  if (name == "never") return Metaspace::Prepend::kNever;
  part.refuse("prepend_scheme", name + " is not known");
}

PreTokenizer pre_tokenizer_of(JsonObject& part) {
  const std::string type = part.string("type");
  if (type == "ByteLevel")
    return ByteLevel{part.boolean_or("add_prefix_space", true), part.boolean_or("use_regex", true)};
  if (type == "Split") return SplitBy{pattern_of(part), behavior_of(part), part.boolean_or("invert", false)};
  if (type == "Digits") return SplitDigits{part.boolean_or("individual_digits", false)};
  if (type == "Metaspace")
    return Metaspace{character_of(part, "replacement"), prepend_of(part), part.boolean_or("split", true)};
  unknown_type(part, "pre-tokenizer");
}

std::size_t count_of(JsonObject& part, const char* key) { return static_cast<std::size_t>(part.integer(key, 0)); }

Decoder decoder_of(JsonObject& part) {
  const std::string type = part.string("type");
  if (type == "ByteLevel") return DecodeByteLevel{};
  if (type == "ByteFallback") return DecodeByteFallback{};
  if (type == "Fuse") return DecodeFuse{};
  if (type == "Metaspace")
    return DecodeMetaspace{character_of(part, "replacement"), prepend_of(part) != Metaspace::Prepend::kNever};
  if (type == "Strip")
    return DecodeStrip{character_of(part, "content"), count_of(part, "start"), count_of(part, "stop")};
  if (type == "Replace") {
    const Pattern pattern = pattern_of(part);
    const std::string* text = std::get_if<std::string>(&pattern);
    if (text == nullptr) unsupported("a decoder that replaces a pattern");
    return DecodeReplace{*text, part.string("content")};
  }
  unknown_type(part, "decoder");
}

// TemplateProcessing: the ids before and after the text of a single sequence.
void add_template(JsonObject& part, TokenizerParts& parts) {
  JsonObject tokens = part.object("special_tokens");
  std::vector<std::int64_t> around[2];
  bool text_seen = false;
  for (JsonObject& piece : part.objects("single")) {
    if (std::optional<JsonObject> text = piece.optional_object("Sequence")) {
      if (text_seen || text->string("id") != "A") unsupported("a template with more than one text");
      text_seen = true;
      continue;
    }
    const std::string name = piece.object("SpecialToken").string("id");
    const std::vector<std::int64_t> ids = tokens.object(name).integers("ids", 0);
    around[text_seen].insert(around[text_seen].end(), ids.begin(), ids.end());
  }
  if (!text_seen) unsupported("a template without the text");
  parts.before.insert(parts.before.begin(), around[0].begin(), around[0].end());
  parts.after.insert(parts.after.end(), around[1].begin(), around[1].end());
}

void add_post_processor(JsonObject& part, TokenizerParts& parts) {
  const std::string type = part.string("type");
  if (type == "TemplateProcessing") return add_template(part, parts);
  if (type != "ByteLevel") unknown_type(part, "post-processor");  // ByteLevel changes only offsets
}

Bpe model_of(JsonObject model, TokenizerJson& read) {
  const std::string type = model.string_or("type", "BPE");
  if (type != "BPE") unsupported(str_cat("a model of type ", type));
  if (!read.has_vocabulary || !read.has_merges) damaged("model.vocab or model.merges is missing");
  if (model.optional_number("dropout").value_or(0) != 0) unsupported("a model with dropout");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.string_or(affix, "").empty()) unsupported(str_cat("a model with ", affix));
  Bpe bpe;
  bpe.fuse_unknown = model.boolean_or("fuse_unk", false);
  bpe.byte_fallback = model.boolean_or("byte_fallback", false);
  bpe.ignore_merges = model.boolean_or("ignore_merges", false);
  if (const auto unknown = model.optional_string("unk_token")) bpe.unknown = read.vocabulary.id(*unknown);
  bpe.merges = Merges(read.merges.size());
  std::string_view texts = read.merge_texts;
  const auto id_of = [&read](std::string_view token) {
    const auto id = read.vocabulary.id(token);
    if (!id) damaged(str_cat("the token \"", token, "\" of model.merges is not in model.vocab"));
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

std::vector<AddedToken> added_tokens_of(JsonObject& root, const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  std::set<std::string, std::less<>> seen;
  std::int64_t largest = -1;
  for (JsonObject& entry : root.objects_or_empty("added_tokens")) {
    AddedToken token;
    token.content = entry.string("content");
    token.single_word = entry.boolean_or("single_word", false);
    token.lstrip = entry.boolean_or("lstrip", false);
    token.rstrip = entry.boolean_or("rstrip", false);
    token.special = entry.boolean_or("special", false);
    token.normalized = entry.boolean_or("normalized", !token.special);
    if (token.content.empty()) continue;
    if (!seen.insert(token.content).second) damaged(str_cat("the added token \"", token.content, "\" is there twice"));
    // `tokenizers` ignores the id in the file: an added token gets the vocabulary's id, or else the next free one.
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
  JsonObject root(*read.rest, "");
  TokenizerParts parts;
  parts.model = model_of(root.object("model"), read);
  parts.added = added_tokens_of(root, parts.model.vocabulary);
  each_component(root, "normalizer", "normalizers",
                 [&](JsonObject& part) { parts.normalizers.push_back(normalizer_of(part)); });
  each_component(root, "pre_tokenizer", "pretokenizers",
                 [&](JsonObject& part) { parts.pre_tokenizers.push_back(pre_tokenizer_of(part)); });
  each_component(root, "post_processor", "processors", [&](JsonObject& part) { add_post_processor(part, parts); });
  each_component(root, "decoder", "decoders", [&](JsonObject& part) { parts.decoders.push_back(decoder_of(part)); });
  if (!root.has("decoder")) parts.decoders.emplace_back(DecodeSpaceBetween{});
  return parts;
}

}  // namespace

Result<TokenizerParts> parse_tokenizer(std::string_view text, std::string_view path) {
  return read_checked(path, [text]() -> Result<TokenizerParts> { return parts_of(text); });
}

}  // namespace edgekiln::text
