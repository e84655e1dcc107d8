#include "text/vocabulary.h"

#include <algorithm>
#include <functional>

#include "text/utf8.h"

namespace edgekiln::text {

// The slot of `token`, or the one where it would be inserted.
std::size_t Vocabulary::slot(std::string_view token) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = std::hash<std::string_view>{}(token)&mask;
  while (slots_[at] != 0 && text(entries_[slots_[at] - 1]) != token) at = (at + 1) & mask;
  return at;
}

void Vocabulary::grow() {
  slots_.assign(slots_.empty() ? 64 : slots_.size() * 2, 0);
  for (std::uint32_t i = 0; i < entries_.size(); ++i) slots_[slot(text(entries_[i]))] = i + 1;
}

void Vocabulary::add(std::string_view token, std::uint32_t id) {
  if (entries_.size() * 3 >= slots_.size() * 2) grow();
  const std::size_t at = slot(token);
  if (slots_[at] == 0) {
    entries_.push_back({static_cast<std::uint32_t>(texts_.size()), static_cast<std::uint32_t>(token.size()), id});
    texts_ += token;
    slots_[at] = static_cast<std::uint32_t>(entries_.size());
  }
  entries_[slots_[at] - 1].id = id;
  if (by_id_.size() <= id) by_id_.resize(id + 1);
  by_id_[id] = slots_[at];
}

std::size_t Vocabulary::most_characters() const {
  std::size_t most = 0;
  for (const Entry& entry : entries_) most = std::max(most, count_code_points(text(entry)));
  return most;
}

std::optional<std::uint32_t> Vocabulary::id(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  const std::uint32_t entry = slots_[slot(token)];
  if (entry == 0) return std::nullopt;
  return entries_[entry - 1].id;
}

std::optional<std::string_view> Vocabulary::token(std::int64_t id) const {
  if (id < 0 || static_cast<std::uint64_t>(id) >= by_id_.size()) return std::nullopt;
  const std::uint32_t entry = by_id_[static_cast<std::size_t>(id)];
  if (entry == 0) return std::nullopt;
  return text(entries_[entry - 1]);
}

}  // namespace edgekiln::text
