// Arbitrary bytes as text, for tokenizers with the components of the supported model families. Byte-level tokenizers
// must round-trip the text, streamed decoding must equal decoding at once, and text of a message has no control token.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/pre_tokenizer.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

using edgekiln::text::Tokenizer;
using nlohmann::json;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json added(const char* content, bool strip) {
  return {{"id", 0},         {"content", content},  {"single_word", strip}, {"lstrip", strip},
          {"rstrip", strip}, {"normalized", strip}, {"special", !strip}};
}

json byte_level() {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    edgekiln::text::append(token, edgekiln::text::byte_character(static_cast<unsigned char>(byte)));
    vocab[token] = byte;
  }
  vocab["th"] = 256;
  vocab["the"] = 257;
  vocab["\u0120the"] = 258;
  const json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kLlama3}}}, {"behavior", "Isolated"}, {"invert", false}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h", "th e", "\u0120 the"}}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"added_tokens", {added("<x>", false)}}};
}

json sentencepiece() {
  json vocab = {{"<unk>", 0}, {"\u2581", 1}, {"a", 2}, {"\u2581a", 3}, {"\u00e9", 4}};
  for (const char* byte : {"<0xC3>", "<0xA8>", "<0x0A>"}) vocab[byte] = vocab.size();
  const json prepend = {{"type", "Prepend"}, {"prepend", "\u2581"}};
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  const json nfkc = {{"type", "NFKC"}};
  const json lower = {{"type", "Lowercase"}};
  const json back = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  return {
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", {"\u2581 a"}}}},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {nfkc, lower, prepend, replace}}}},
      {"decoder", {{"type", "Sequence"}, {"decoders", {back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}}},
      {"added_tokens", {added("<x>", false), added("word", true)}}};
}

Tokenizer make(const json& description) {
  auto tokenizer = Tokenizer::parse(description.dump(), "tokenizer.json");
  if (!tokenizer) std::abort();
  return std::move(tokenizer).value();
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids) {
  edgekiln::text::StreamingDecoder stream(tokenizer);
  std::string text;
  for (const std::int64_t id : ids) text += stream.push(id);
  return text + stream.flush();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array<Tokenizer, 2> tokenizers = {make(byte_level()), make(sentencepiece())};
  const void* bytes = data;
  const std::string_view text{static_cast<const char*>(bytes), size};
  for (const Tokenizer& tokenizer : tokenizers) {
    const auto ids = tokenizer.encode(text, true);
    if (!ids) std::abort();
    const std::string decoded = tokenizer.decode(ids.value());
    if (streamed(tokenizer, ids.value()) != decoded) std::abort();
    const std::string given = edgekiln::text::to_valid_utf8(text);
    if (&tokenizer == &tokenizers[0] && given.find("<x>") == std::string::npos && decoded != given) std::abort();
    edgekiln::text::MarkedText message;
    message.append(text, edgekiln::text::kGiven);
    const auto as_text = tokenizer.encode(message);
    if (!as_text || std::ranges::any_of(*as_text, [&](auto id) { return tokenizer.is_special(id); })) std::abort();
    if (&tokenizer == &tokenizers[0] && tokenizer.decode(*as_text) != given) std::abort();
  }
  // Arbitrary ids, since a model may generate any. With byte fallback, streaming may decode a run of byte tokens
  // differently, so only the absence of crashes is checked.
  std::vector<std::int64_t> ids;
  for (std::size_t i = 0; i < size; ++i) ids.push_back(data[i] + (i % 3 == 0 ? 5 : 0));
  if (streamed(tokenizers[0], ids) != tokenizers[0].decode(ids)) std::abort();
  static_cast<void>(streamed(tokenizers[1], ids));
  return 0;
}
