// The vocabulary: ids by token and tokens by id.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln::text {

// All tokens are concatenated in one string, since a vocabulary has 100,000 and more.
class Vocabulary {
 public:
  // Above the size of any vocabulary: a larger id means that the file is damaged.
  static constexpr std::uint64_t kMaxIds = 1U << 24;

  // `id` must be below kMaxIds. Adding a token again changes its id; of two tokens with one id, token() returns the
  // last.
  void add(std::string_view token, std::uint32_t id);

  std::optional<std::uint32_t> id(std::string_view token) const;

  // Empty if no token has the id.
  std::optional<std::string_view> token(std::int64_t id) const;

  // Characters of the longest token.
  std::size_t most_characters() const;

  // Number of tokens.
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::uint32_t begin;
    std::uint32_t size;
    std::uint32_t id;
  };

  std::string_view text(const Entry& entry) const { return std::string_view(texts_).substr(entry.begin, entry.size); }
  std::size_t slot(std::string_view token) const;
  void grow();

  std::string texts_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> slots_;  // hash table of indices into entries_ plus 1; its size is a power of two
  std::vector<std::uint32_t> by_id_;  // indices into entries_ plus 1
};

}  // namespace edgekiln::text
