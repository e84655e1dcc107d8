#include "text/text_length.h"

#include <algorithm>
#include <variant>

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::size_t kLongText = 50'000;  // shorter texts are tokenized at once

// The most characters of which a step makes one; empty if it can drop some.
struct Shortening {
  using Factor = std::optional<std::size_t>;

  Factor operator()(Form form) const { return form == Form::kNfc ? Factor(4) : std::nullopt; }
  Factor operator()(const Lowercase&) const { return std::nullopt; }
  Factor operator()(const Strip&) const { return std::nullopt; }
  Factor operator()(const Prepend&) const { return 1; }
  Factor operator()(const Replace& replace) const {
    const auto* pattern = std::get_if<std::string>(&replace.pattern);
    const bool keeps = pattern != nullptr && count_code_points(*pattern) <= count_code_points(replace.content);
    return keeps ? Factor(1) : std::nullopt;
  }

  Factor operator()(const SplitBy& split) const {
    return split.behavior == Behavior::kRemoved ? std::nullopt : Factor(1);
  }
  Factor operator()(const SplitDigits&) const { return 1; }
  Factor operator()(const Metaspace&) const { return 1; }
  Factor operator()(const ByteLevel&) const { return 1; }
};

template <typename Step>
std::optional<std::size_t> product(const std::vector<Step>& steps) {
  std::size_t result = 1;
  for (const Step& step : steps) {
    const std::optional<std::size_t> factor = std::visit(Shortening{}, step);
    if (!factor) return std::nullopt;
    result *= *factor;
  }
  return result;
}

}  // namespace

std::optional<std::size_t> most_characters(const TokenizerParts& parts) {
  const auto normalizers = product(parts.normalizers);
  const auto pre_tokenizers = product(parts.pre_tokenizers);
  if (!normalizers || !pre_tokenizers) return std::nullopt;
  const bool bytes = std::ranges::any_of(
      parts.pre_tokenizers, [](const PreTokenizer& step) { return std::holds_alternative<ByteLevel>(step); });
  if (!bytes && !parts.model.byte_fallback && (!parts.model.unknown || parts.model.fuse_unknown)) return std::nullopt;
  std::size_t longest = std::max<std::size_t>(1, parts.model.vocabulary.most_characters());
  for (const AddedToken& token : parts.added) {
    if (token.lstrip || token.rstrip) return std::nullopt;
    longest = std::max(longest, count_code_points(token.content));
  }
  return *normalizers * *pre_tokenizers * longest;
}

Result<void> check_length(const TokenizerParts& parts, std::string_view text, std::int64_t max_tokens,
                          std::string_view advice) {
  if (text.size() <= kLongText) return {};
  const std::size_t characters = count_code_points(text);
  const auto tokens = static_cast<std::size_t>(max_tokens);
  if (characters <= std::max(kLongText, tokens)) return {};
  const std::optional<std::size_t> most = most_characters(parts);
  if (!most || characters / *most < tokens || characters <= *most * tokens) return {};
  return fail(Code::kRequest, "prompt has ", characters, " characters, which are more than the ", max_tokens,
              " tokens the engine holds: ", advice);
}

}  // namespace edgekiln::text
