// Chat prompts from chat_segments.json: the fixed text segments between messages that the engine's builder extracted
// from the Jinja chat template.
#pragma once

#include <ctime>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/marked_text.h"
#include "util/result.h"

namespace edgekiln::text {

struct ChatMessage {
  std::string_view role;
  std::string_view content;
  bool parse_special = false;  // control tokens in the content are recognized
};

// Immutable and therefore thread-safe.
class ChatTemplate {
 public:
  // Parse the text of a chat_segments.json; `path` names it in errors, which are of Code::kEngine.
  static Result<ChatTemplate> parse(std::string_view text, std::string_view path);

  // The prompt up to the assistant's next answer, whose given parts are the contents of messages without
  // `parse_special`. `now` is the time for date segments. Invalid UTF-8 becomes U+FFFD.
  //
  // An error of Code::kRequest if the template, or the segments extracted from it, do not support the messages.
  Result<MarkedText> render(std::span<const ChatMessage> messages, const std::tm& now) const;

 private:
  enum class Order { kAny, kSystemFirst, kUserLast, kTurns, kTurnsUserLast };
  enum class Rule { kAsIs, kStrip, kAfterThink, kAfterThinkLines, kAfterThinkStrip };

  ChatTemplate() = default;
  Result<void> check(std::span<const ChatMessage> messages) const;
  Failure refuse_role(std::string_view role) const;
  static std::string apply(std::string_view content, Rule rule);

  Order order_ = Order::kAny;
  std::map<std::string, Rule, std::less<>> rules_;
  std::set<std::string, std::less<>> needs_text_;
  // between_[role or "start"][next role or "end"]: text, strftime format, text, ...
  std::map<std::string, std::map<std::string, std::vector<std::string>, std::less<>>, std::less<>> between_;
};

}  // namespace edgekiln::text
