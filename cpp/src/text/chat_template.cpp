#include "text/chat_template.h"

#include <array>
#include <utility>

#include "text/unicode.h"
#include "text/utf8.h"
#include "util/json.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

using nlohmann::json;

constexpr std::string_view kThink = "</think>";
constexpr std::array<std::string_view, 5> kOrders = {"any", "system-first", "user-last", "turns", "turns-user-last"};
constexpr std::array<std::string_view, 5> kRules = {"as-is", "strip", "after-think", "after-think-lines",
                                                    "after-think-strip"};

// The place of a name in a list, which is the value of an enumeration.
template <typename Enum, std::size_t N>
Enum named(const std::array<std::string_view, N>& names, const std::string& name) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == name) return static_cast<Enum>(i);
  damaged(sentence("\"", name, "\" is not known"));
}

// What Python's str.strip() gives.
std::string_view python_stripped(std::string_view text) {
  return stripped(text, [](char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); });
}

std::string date(const std::string& format, const std::tm& now) {
  std::string text(format.size() * 16 + 64, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &now));
  return text;
}

const json& object_of(const json& owner, const char* key) {
  const json* found = member(owner, key);
  if (found == nullptr || !found->is_object()) damaged(sentence("\"", key, "\" is no object"));
  return *found;
}

std::vector<std::string> strings_of(const json& list) {
  std::vector<std::string> strings;
  if (!list.is_array()) damaged("a list is missing");
  for (const json& value : list) {
    if (!value.is_string()) damaged("a list has something else than strings");
    strings.push_back(value.get<std::string>());
  }
  return strings;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view text, std::string_view path) {
  return checked(path, [text] {
    const json root = json::parse(text);
    ChatTemplate result;
    result.order_ = named<Order>(kOrders, string_of(root, "order"));
    const json& rules = object_of(root, "rules");
    for (const auto& [role, rule] : rules.items())
      result.rules_[role] = named<Rule>(kRules, string_of(rules, role.c_str()));
    for (std::string& role : strings_of(list_of(root, "needs_text"))) result.needs_text_.insert(std::move(role));
    const json& between = object_of(root, "between");
    for (const auto& [before, nexts] : between.items())
      for (const auto& [after, pieces] : object_of(between, before.c_str()).items())
        result.between_[before][after] = strings_of(pieces);
    return result;
  });
}

Result<void> ChatTemplate::check(std::span<const ChatTurn> turns) const {
  const auto refuse = [](const auto&... parts) { return Error{Code::kRequest, sentence(parts...)}; };
  if (turns.empty()) return refuse("the conversation is empty: give at least one message");
  bool system_first = false;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const auto& [role, content] = turns[i];
    if (!rules_.contains(role))
      return refuse("the chat template takes no messages of role ", to_valid_utf8(role), ": leave them out");
    if (needs_text_.contains(role) && python_stripped(to_valid_utf8(content)).empty())
      return refuse("the chat template takes no blank messages of role ", role, ": leave them out");
    if (order_ == Order::kAny) continue;
    if (role == "system") {
      if (i > 0) return refuse("the chat template takes a system message only first, message ", i + 1, " is one");
      system_first = true;
      continue;
    }
    if (order_ != Order::kTurns && order_ != Order::kTurnsUserLast) continue;
    const bool user = (i - (system_first ? 1U : 0U)) % 2 == 0;
    if (role != (user ? "user" : "assistant"))
      return refuse("the chat template takes user and assistant in turns, message ", i + 1, " is of role ", role);
  }
  const bool turns_only = order_ == Order::kTurns || order_ == Order::kTurnsUserLast;
  if ((order_ == Order::kUserLast || order_ == Order::kTurnsUserLast) && turns.back().role != "user")
    return refuse("the chat template takes messages that end with one of role user, the last is of role ",
                  turns.back().role);
  if (turns_only && system_first && turns.size() == 1)
    return refuse("the chat template takes no system message alone: add one of role user");
  return {};
}

std::string ChatTemplate::changed(std::string_view content, Rule rule) {
  if (rule == Rule::kAsIs) return std::string(content);
  if (rule == Rule::kStrip) return std::string(python_stripped(content));
  const std::size_t think = content.rfind(kThink);
  const bool thought = think != std::string_view::npos;
  if (thought) content.remove_prefix(think + kThink.size());
  if (rule == Rule::kAfterThinkStrip) content = python_stripped(content);
  while (rule == Rule::kAfterThinkLines && thought && content.starts_with('\n')) content.remove_prefix(1);
  return std::string(content);
}

Result<std::string> ChatTemplate::render(std::span<const ChatTurn> turns, const std::tm& now) const {
  if (const Result<void> fine = check(turns); !fine) return fine.error();
  std::string text;
  std::string_view before = "start";
  for (std::size_t i = 0; i <= turns.size(); ++i) {
    const std::string_view after = i < turns.size() ? turns[i].role : "end";
    const auto from = between_.find(before);
    if (from == between_.end() || !from->second.contains(after))
      return Error{Code::kRequest, sentence("the chat template takes no ", after, " after ", before)};
    const std::vector<std::string>& pieces = from->second.find(after)->second;
    for (std::size_t k = 0; k < pieces.size(); ++k) text += k % 2 == 0 ? pieces[k] : date(pieces[k], now);
    if (i < turns.size()) text += changed(to_valid_utf8(turns[i].content), rules_.find(after)->second);
    before = after;
  }
  return text;
}

}  // namespace edgekiln::text
