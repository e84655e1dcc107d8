#include "api/c_handles.h"

#include <cstddef>
#include <string_view>

#include "api/c_status.h"
#include "api/c_structs.h"

namespace edgekiln {

namespace {

// The array's stride is the struct_size of its first element.
Result<std::vector<ChatMessage>> convert(const edgekiln_message* messages, std::size_t count) {
  if (count == 0) return fail(Code::kRequest, "the conversation is empty: give at least one message");
  if (!messages) return null_argument("messages");
  const Result<std::size_t> stride = struct_size_of(messages, kMessageKind);
  if (!stride) return std::unexpected(stride.error());
  const void* start = messages;
  const auto* bytes = static_cast<const std::byte*>(start);
  std::vector<ChatMessage> result;
  for (std::size_t i = 0; i < count; ++i) {
    // Compared before the message is read: a wrong size may reach beyond the array.
    const Result<std::size_t> size = struct_size_of(bytes + i * *stride, kMessageKind);
    if (!size) return std::unexpected(size.error());
    if (*size != *stride)
      return fail(Code::kRequest, "struct_size of message ", i + 1, " is ", *size, ", of message 1 ", *stride,
                  ": initialize each with EDGEKILN_MESSAGE");
    const Result<edgekiln_message> message = read_struct(bytes + i * *stride, edgekiln_message{}, kMessageKind);
    if (!message) return std::unexpected(message.error());
    if (!message->role || !message->content) return null_argument("a message's role or content");
    result.push_back({message->role, message->content});
  }
  return result;
}

}  // namespace

Result<std::vector<std::int64_t>> encode(const LoadedEngine& engine, const char* text, std::size_t length,
                                         bool add_special) {
  const Result<const TextModel*> model = engine.need_text();
  if (!model) return std::unexpected(model.error());
  if (!text && length) return null_argument("text");
  return (*model)->encode(std::string_view(text ? text : "", length), add_special);
}

Result<std::vector<std::int64_t>> encode_chat(const LoadedEngine& engine, const edgekiln_message* messages,
                                              std::size_t count) {
  const Result<const TextModel*> model = engine.need_text();
  if (!model) return std::unexpected(model.error());
  const Result<std::vector<ChatMessage>> converted = convert(messages, count);
  if (!converted) return std::unexpected(converted.error());
  return (*model)->encode_chat(*converted);
}

}  // namespace edgekiln
