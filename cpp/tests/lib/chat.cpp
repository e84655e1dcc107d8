// Renders chat templates for the Python tests: chat CHAT_SEGMENTS_JSON. Each line of stdin is a JSON list of messages,
// each line of stdout the prompt and the marks of its bytes, 1 for those of messages, or the error. The time is always
// 2031-01-02 15:30.
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/chat_template.h"

int main(int count, char** arguments) {
  using nlohmann::json;
  if (count != 2) return 2;
  std::ifstream file(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto chat = edgekiln::text::ChatTemplate::parse(text, "chat_segments.json");
  if (!chat) {
    std::cerr << chat.error().message << '\n';
    return 2;
  }
  std::tm now{};
  now.tm_year = 131;
  now.tm_mday = 2;
  now.tm_hour = 15;
  now.tm_min = 30;
  now.tm_wday = 4;
  now.tm_yday = 1;
  for (std::string line; std::getline(std::cin, line);) {
    const json messages = json::parse(line);
    std::vector<edgekiln::text::ChatMessage> conversation;
    for (const json& message : messages)
      conversation.push_back(
          {message.at("role").get_ref<const std::string&>(), message.at("content").get_ref<const std::string&>()});
    const auto prompt = chat.value().render(conversation, now);
    if (!prompt) {
      std::cout << json{{"error", prompt.error().message}} << std::endl;
      continue;
    }
    std::string marks;
    for (const char mark : prompt->marks) marks += mark == edgekiln::text::kGiven ? '1' : '0';
    std::cout << json{{"text", prompt->text}, {"marks", marks}} << std::endl;
  }
}
