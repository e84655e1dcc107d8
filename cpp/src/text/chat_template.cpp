#include "text/chat_template.h"

#include <array>
#include <utility>

#include "text/unicode.h"
#include "text/utf8.h"
#include "util/json_reader.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

constexpr std::string_view kRefused = "the chat template does not take these messages: ";
constexpr std::string_view kThink = "</think>";
constexpr std::array<std::string_view, 5> kOrders = {"any", "system-first", "user-last", "turns", "turns-user-last"};
constexpr std::array<std::string_view, 5> kRules = {"as-is", "strip", "after-think", "after-think-lines",
                                                    "after-think-strip"};

// The enumerator whose name in `names` is the string at `key`.
template <typename Enum, std::size_t N>
Enum enum_at(JsonObject& object, std::string_view key, const std::array<std::string_view, N>& names) {
  const std::string name = object.string(key);
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == name) return static_cast<Enum>(i);
  object.refuse(key, name + " is not known");
}

// Python's str.strip().
std::string_view python_stripped(std::string_view text) {
  return stripped(text, [](char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); });
}

std::string formatted_time(const std::string& format, const std::tm& now) {
  std::string text(format.size() * 16 + 64, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &now));
  return text;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view text, std::string_view path) {
  return read_checked(path, [text]() -> Result<ChatTemplate> {
    const JsonDocument document = parse_json(text);
    JsonObject root(*document, "");
    ChatTemplate result;
    result.order_ = enum_at<Order>(root, "order", kOrders);
    JsonObject rules = root.object("rules");
    for (const std::string& role : rules.keys()) result.rules_[role] = enum_at<Rule>(rules, role, kRules);
    for (std::string& role : root.strings("needs_text")) result.needs_text_.insert(std::move(role));
    JsonObject between = root.object("between");
    for (const std::string& before : between.keys()) {
      JsonObject segments = between.object(before);
      for (const std::string& after : segments.keys()) result.between_[before][after] = segments.strings(after);
    }
    return result;
  });
}

Result<void> ChatTemplate::check(std::span<const ChatMessage> messages) const {
  const auto refuse = [](const auto&... parts) { return fail(Code::kRequest, kRefused, parts...); };
  if (messages.empty()) return fail(Code::kRequest, "the conversation is empty: give at least one message");
  bool system_first = false;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, content, _] = messages[i];
    if (!rules_.contains(role)) return refuse_role(role);
    if (needs_text_.contains(role) && python_stripped(to_valid_utf8(content)).empty())
      return refuse("message ", i + 1, " of role ", role, " is blank");
    if (order_ == Order::kAny) continue;
    if (role == "system") {
      if (i > 0) return refuse("message ", i + 1, " is a system message, which may only be the first");
      system_first = true;
      continue;
    }
    if (order_ != Order::kTurns && order_ != Order::kTurnsUserLast) continue;
    const bool user = (i - (system_first ? 1U : 0U)) % 2 == 0;
    if (role != (user ? "user" : "assistant"))
      return refuse("user and assistant must take turns, message ", i + 1, " is of role ", role);
  }
  const bool alternating = order_ == Order::kTurns || order_ == Order::kTurnsUserLast;
  if ((order_ == Order::kUserLast || order_ == Order::kTurnsUserLast) && messages.back().role != "user")
    return refuse("the last must be of role user, it is of role ", messages.back().role);
  if (alternating && system_first && messages.size() == 1)
    return refuse("a system message is alone, add one of role user");
  return {};
}

Failure ChatTemplate::refuse_role(std::string_view role) const {
  std::string known;
  for (const auto& [name, _] : rules_) known += (known.empty() ? "" : ", ") + name;
  return fail(Code::kRequest, "this library renders messages of the roles ", known, ", got ", to_valid_utf8(role),
              ": leave such messages out, or render the chat template in the application and pass it as parts");
}

std::string ChatTemplate::apply(std::string_view content, Rule rule) {
  if (rule == Rule::kAsIs) return std::string(content);
  if (rule == Rule::kStrip) return std::string(python_stripped(content));
  const std::size_t think = content.rfind(kThink);
  const bool thought = think != std::string_view::npos;
  if (thought) content.remove_prefix(think + kThink.size());
  if (rule == Rule::kAfterThinkStrip) content = python_stripped(content);
  while (rule == Rule::kAfterThinkLines && thought && content.starts_with('\n')) content.remove_prefix(1);
  return std::string(content);
}

Result<MarkedText> ChatTemplate::render(std::span<const ChatMessage> messages, const std::tm& now) const {
  if (const Result<void> fine = check(messages); !fine) return std::unexpected(fine.error());
  MarkedText text;
  std::string_view before = "start";
  for (std::size_t i = 0; i <= messages.size(); ++i) {
    const std::string_view after = i < messages.size() ? messages[i].role : "end";
    const auto from = between_.find(before);
    if (from == between_.end() || !from->second.contains(after))
      return fail(Code::kRequest, kRefused, "none may be ", after, " after ", before);
    const std::vector<std::string>& segments = from->second.find(after)->second;
    for (std::size_t k = 0; k < segments.size(); ++k)
      text.append(k % 2 == 0 ? segments[k] : formatted_time(segments[k], now), kOwn);
    if (i < messages.size())
      text.append(apply(to_valid_utf8(messages[i].content), rules_.find(after)->second),
                  messages[i].parse_special ? kOwn : kGiven);
    before = after;
  }
  return text;
}

}  // namespace edgekiln::text
