// An engine's tokenizer and chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/manifest.h"
#include "generate/generate.h"
#include "text/chat_template.h"
#include "text/marked_text.h"
#include "util/result.h"

namespace edgekiln {

using text::ChatMessage;

// When the tokenization of a prompt ends early.
struct EncodeLimits {
  std::int64_t max_tokens = std::numeric_limits<std::int64_t>::max();  // Code::kRequest if it is certain to have more
  std::stop_token stop;                                                // Code::kCancelled
  std::string_view length_advice = "shorten it";                       // what to do about one that has more
};

// Thread-safe.
class TextModel {
 public:
  virtual ~TextModel() = default;

  virtual bool has_chat() const = 0;
  // Token ids of a text, a conversation, and a prompt that the caller rendered.
  virtual Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special,
                                                   const EncodeLimits& limits) const = 0;
  virtual Result<std::vector<std::int64_t>> encode_chat(std::span<const ChatMessage> messages,
                                                        const EncodeLimits& limits) const = 0;
  virtual Result<std::vector<std::int64_t>> encode(const text::MarkedText& prompt,
                                                   const EncodeLimits& limits) const = 0;
  virtual std::string decode(Ids ids) const = 0;
  // A detokenizer, which must not outlive the text model and leaves out `hidden` ids, too.
  virtual std::unique_ptr<TextStream> stream(SpecialTokensChoice special_tokens,
                                             std::set<std::int64_t> hidden) const = 0;
};

// Load the tokenizer and chat template of a verified engine. Errors: Code::kEngine if a file is missing or damaged,
// Code::kUnsupported if this library does not implement a component of the tokenizer.
Result<std::unique_ptr<TextModel>> load_text_model(const std::filesystem::path& directory, const Manifest& manifest);

}  // namespace edgekiln
