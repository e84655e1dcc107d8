#include "api/text_model.h"

#include <ctime>
#include <optional>
#include <utility>

#include "engine/file.h"
#include "text/chat_template.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

constexpr const char* kTokenizerFile = "tokenizer.json";
constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kSegmentsFile = "chat_segments.json";
constexpr const char* kFix = "build the engine again";

std::tm local_time() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  localtime_r(&seconds, &parts);
  return parts;
}

// Ids of bos, eos and pad.
std::set<std::int64_t> turn_marks(const SpecialTokens& special) {
  std::set<std::int64_t> marks(special.eos.begin(), special.eos.end());
  if (special.bos) marks.insert(*special.bos);
  if (special.pad) marks.insert(*special.pad);
  return marks;
}

class EngineText : public TextModel {
 public:
  EngineText(text::Tokenizer tokenizer, std::optional<text::ChatTemplate> chat, std::string no_chat,
             std::set<std::int64_t> turn_marks)
      : tokenizer_(std::move(tokenizer)),
        chat_(std::move(chat)),
        no_chat_(std::move(no_chat)),
        turn_marks_(std::move(turn_marks)) {}

  bool has_chat() const override { return chat_.has_value(); }

  Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special,
                                           const EncodeLimits& limits) const override {
    if (Result<void> checked = tokenizer_.check_length(text, limits.max_tokens, limits.length_advice); !checked)
      return std::unexpected(checked.error());
    return tokenizer_.encode(text, add_special, limits.stop);
  }

  Result<std::vector<std::int64_t>> encode_chat(std::span<const ChatMessage> messages,
                                                const EncodeLimits& limits) const override {
    if (!chat_) return fail(Code::kRequest, no_chat_);
    const Result<text::MarkedText> prompt = chat_->render(messages, local_time());
    if (!prompt) return std::unexpected(prompt.error());
    return encode(*prompt, limits);
  }

  Result<std::vector<std::int64_t>> encode(const text::MarkedText& prompt, const EncodeLimits& limits) const override {
    if (Result<void> checked = tokenizer_.check_length(prompt.text, limits.max_tokens, limits.length_advice); !checked)
      return std::unexpected(checked.error());
    return tokenizer_.encode(prompt, limits.stop);
  }

  std::string decode(Ids ids) const override { return tokenizer_.decode(ids); }

  std::unique_ptr<TextStream> stream(SpecialTokensChoice special_tokens, std::set<std::int64_t> hidden) const override {
    if (special_tokens == SpecialTokensChoice::kAuto) hidden.insert(turn_marks_.begin(), turn_marks_.end());
    return std::make_unique<text::StreamingDecoder>(tokenizer_, special_tokens, std::move(hidden));
  }

 private:
  const text::Tokenizer tokenizer_;
  const std::optional<text::ChatTemplate> chat_;
  const std::string no_chat_;  // the error message if chat_ is empty
  const std::set<std::int64_t> turn_marks_;
};

}  // namespace

Result<std::unique_ptr<TextModel>> load_text_model(const std::filesystem::path& directory, const Manifest& manifest) {
  const std::filesystem::path tokenizer_path = directory / kTokenizerFile;
  const Result<std::string> json = read_file(tokenizer_path, kFix);
  if (!json) return std::unexpected(json.error());
  const std::set<std::int64_t> marks = turn_marks(manifest.special_tokens);
  Result<text::Tokenizer> tokenizer = text::Tokenizer::parse(json.value(), tokenizer_path.string(), marks);
  if (!tokenizer) return std::unexpected(tokenizer.error());
  std::optional<text::ChatTemplate> chat;
  std::string no_chat;
  if (manifest.files.contains(kSegmentsFile)) {
    const std::filesystem::path path = directory / kSegmentsFile;
    const Result<std::string> segments = read_file(path, kFix);
    if (!segments) return std::unexpected(segments.error());
    Result<text::ChatTemplate> parsed = text::ChatTemplate::parse(segments.value(), path.string());
    if (!parsed) return std::unexpected(parsed.error());
    chat = std::move(parsed).value();
  } else if (manifest.files.contains(kTemplateFile)) {
    no_chat = str_cat("the engine has no ", kSegmentsFile, ", since its chat template does more than put text around ",
                      "messages: render it in the application and pass the prompt as parts");
  } else {
    no_chat = "the engine has no chat template: give a plain prompt instead";
  }
  return std::unique_ptr<TextModel>(
      std::make_unique<EngineText>(std::move(tokenizer).value(), std::move(chat), std::move(no_chat), marks));
}

}  // namespace edgekiln
