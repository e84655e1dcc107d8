// Any bytes as chat_segments.json, rendered for some conversations: read or refused with a sentence.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using edgekiln::text::ChatTurn;
  const void* bytes = data;
  const auto chat = edgekiln::text::ChatTemplate::parse({static_cast<const char*>(bytes), size}, "chat_segments.json");
  if (!chat) {
    if (chat.error().message.empty()) std::abort();
    return 0;
  }
  const std::vector<ChatTurn> turns = {{"system", " \xFF"}, {"user", "x"}, {"assistant", "</think>\n"}, {"user", ""}};
  for (std::size_t from = 0; from <= turns.size(); ++from)
    static_cast<void>(chat.value().render(std::span(turns).subspan(from), std::tm{}));
  return 0;
}
