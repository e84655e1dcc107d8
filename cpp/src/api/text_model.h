// An engine's text: its tokenizer and its chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/manifest.h"
#include "generate/generate.h"
#include "util/result.h"

namespace edgekiln {

struct ChatMessage {
  std::string_view role;
  std::string_view content;
};

// For any number of threads.
class TextModel {
 public:
  virtual ~TextModel() = default;

  virtual bool has_chat() const = 0;
  virtual Result<std::vector<std::int64_t>> encode(std::string_view text, bool add_special) const = 0;
  virtual Result<std::vector<std::int64_t>> encode_chat(std::span<const ChatMessage> messages) const = 0;
  virtual std::string decode(Ids ids) const = 0;
  // What it returns must not outlive this.
  virtual std::unique_ptr<TextStream> stream() const = 0;
};

// The text of a checked engine. An error is of Code::kEngine if its tokenizer is missing or damaged, of
// Code::kUnsupported if this library does not know a part of it.
Result<std::unique_ptr<TextModel>> load_text_model(const std::filesystem::path& directory, const Manifest& manifest);

}  // namespace edgekiln
