// Tokens by id and ids by token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln::text {

// Its texts are one string after another: a vocabulary has a hundred thousand.
class Vocabulary {
 public:
  // Far more than any model has; a larger id is a damaged file.
  static constexpr std::uint64_t kMostIds = 1U << 24;

  // `id` is below kMostIds. A token that is there gets the id; the last of two tokens with one id is its text.
  void add(std::string_view token, std::uint32_t id);

  std::optional<std::uint32_t> id(std::string_view token) const;

  // None if there is no token of that id.
  std::optional<std::string_view> token(std::int64_t id) const;

  // How many tokens there are.
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
  std::vector<std::uint32_t> slots_;  // of entries, from 1, by hash; a power of two of them
  std::vector<std::uint32_t> by_id_;  // entries, from 1
};

}  // namespace edgekiln::text
