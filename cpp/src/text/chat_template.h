// Prompts of conversations, from chat_segments.json: the texts between messages that Python found in the chat template.
#pragma once

#include <ctime>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

namespace edgekiln::text {

struct ChatTurn {
  std::string_view role;
  std::string_view content;
};

// For any number of threads.
class ChatTemplate {
 public:
  // Read the text of a chat_segments.json; `path` is what errors call it. An error is of Code::kEngine.
  static Result<ChatTemplate> parse(std::string_view text, std::string_view path);

  // The prompt up to the assistant's next answer, where the template puts a date `now`; what is no UTF-8 becomes
  // U+FFFD.
  //
  // An error is of Code::kRequest if the template, or what is known of it, does not take the messages.
  Result<std::string> render(std::span<const ChatTurn> turns, const std::tm& now) const;

 private:
  enum class Order { kAny, kSystemFirst, kUserLast, kTurns, kTurnsUserLast };
  enum class Rule { kAsIs, kStrip, kAfterThink, kAfterThinkLines, kAfterThinkStrip };

  ChatTemplate() = default;
  Result<void> check(std::span<const ChatTurn> turns) const;
  static std::string changed(std::string_view content, Rule rule);

  Order order_ = Order::kAny;
  std::map<std::string, Rule, std::less<>> rules_;
  std::set<std::string, std::less<>> needs_text_;
  // From role, or "start", to role, or "end": text, a date's format, text, ...
  std::map<std::string, std::map<std::string, std::vector<std::string>, std::less<>>, std::less<>> between_;
};

}  // namespace edgekiln::text
