// Arbitrary bytes as chat_segments.json: they are refused with a message, or render without a crash.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using edgekiln::text::ChatMessage;
  const void* bytes = data;
  const auto chat = edgekiln::text::ChatTemplate::parse({static_cast<const char*>(bytes), size}, "chat_segments.json");
  if (!chat) {
    if (chat.error().message.empty()) std::abort();
    return 0;
  }
  const std::vector<ChatMessage> messages = {
      {"system", " \xFF"}, {"user", "x"}, {"assistant", "</think>\n"}, {"user", ""}};
  for (std::size_t from = 0; from <= messages.size(); ++from)
    static_cast<void>(chat.value().render(std::span(messages).subspan(from), std::tm{}));
  return 0;
}
