#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <string>

#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::int32_t kNone = -1;

// A token of the word, in a doubly linked list.
struct Symbol {
  std::uint32_t id;
  std::int32_t previous;
  std::int32_t next;
  bool merged;  // into its predecessor
};

struct Candidate {
  std::uint32_t rank;
  std::int32_t left;
  std::uint32_t id;
};

// Heap order: lowest rank first, then leftmost.
bool later(const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank > b.rank : a.left > b.left; }

class Word {
 public:
  void clear() {
    symbols_.clear();
    heap_.clear();
  }

  void add(std::uint32_t id) {
    const auto at = static_cast<std::int32_t>(symbols_.size());
    if (at > 0) symbols_.back().next = at;
    symbols_.push_back({id, at - 1, kNone, false});
  }

  void merge(const Merges& merges, const std::set<std::int64_t>& never, const std::stop_token& stop) {
    constexpr std::size_t kCheckEvery = 4096;
    for (std::int32_t at = 0; at + 1 < static_cast<std::int32_t>(symbols_.size()); ++at) propose(merges, never, at);
    for (std::size_t step = 1; !heap_.empty(); ++step) {
      if (step % kCheckEvery == 0 && stop.stop_requested()) return;
      std::pop_heap(heap_.begin(), heap_.end(), later);
      const Candidate best = heap_.back();
      heap_.pop_back();
      Symbol& left = symbol(best.left);
      if (left.merged || left.next == kNone) continue;
      Symbol& right = symbol(left.next);
      const Merge* merge = merges.find(left.id, right.id);
      if (merge == nullptr || merge->id != best.id) continue;
      left.id = best.id;
      right.merged = true;
      left.next = right.next;
      if (left.next != kNone) symbol(left.next).previous = best.left;
      if (left.previous != kNone) propose(merges, never, left.previous);
      if (left.next != kNone) propose(merges, never, best.left);
    }
  }

  void append_to(std::vector<std::int64_t>& ids) const {
    for (const Symbol& symbol : symbols_)
      if (!symbol.merged) ids.push_back(symbol.id);
  }

 private:
  Symbol& symbol(std::int32_t at) { return symbols_[static_cast<std::size_t>(at)]; }

  void propose(const Merges& merges, const std::set<std::int64_t>& never, std::int32_t at) {
    const Merge* merge = merges.find(symbol(at).id, symbol(symbol(at).next).id);
    if (merge == nullptr || (!never.empty() && never.contains(merge->id))) return;
    heap_.push_back({merge->rank, at, merge->id});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }

  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace

std::string byte_token(unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

void Bpe::encode(std::string_view text, std::vector<std::int64_t>& ids, const std::set<std::int64_t>& never,
                 const std::stop_token& stop) const {
  if (ignore_merges) {
    if (const auto whole = vocabulary.id(text); whole && !never.contains(*whole)) {
      ids.push_back(*whole);
      return;
    }
  }
  // Reused, so that its vectors keep their memory from word to word.
  static thread_local Word word;
  word.clear();
  bool waiting = false;  // an unknown token that the next one may be fused with
  const auto flush = [&] {
    if (waiting) word.add(*unknown);
    waiting = false;
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, code_point_at(text, at).size);
    at += character.size();
    if (const auto id = vocabulary.id(character)) {
      flush();
      word.add(*id);
      continue;
    }
    if (byte_fallback) {
      std::array<std::optional<std::uint32_t>, 4> bytes;
      for (std::size_t i = 0; i < character.size(); ++i)
        bytes[i] = vocabulary.id(byte_token(static_cast<unsigned char>(character[i])));
      if (std::all_of(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(character.size()),
                      [](const auto& id) { return id.has_value(); })) {
        // `tokenizers` puts them before a waiting unknown token.
        for (std::size_t i = 0; i < character.size(); ++i) word.add(*bytes[i]);
        continue;
      }
    }
    if (!unknown) continue;
    if (!fuse_unknown) flush();
    waiting = true;
  }
  flush();
  word.merge(merges, never, stop);
  word.append_to(ids);
}

}  // namespace edgekiln::text
