#include "text/pre_tokenizer.h"

#include <array>

#include "text/unicode.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Part {
  Span span;
  bool match;
};

// Split a word of `size` bytes into matches and the sections between them.
std::vector<Part> parts_of(const std::vector<Span>& matches, std::size_t size, bool invert) {
  std::vector<Part> parts;
  std::size_t at = 0;
  for (const Span& match : matches) {
    if (at != match.begin) parts.push_back({{at, match.begin}, invert});
    parts.push_back({match, !invert});
    at = match.end;
  }
  if (at != size) parts.push_back({{at, size}, invert});
  return parts;
}

// Append the words that `parts` form under `behavior`. `base`: offset of the parts in the text.
void join_parts(const std::vector<Part>& parts, std::size_t base, Behavior behavior, std::vector<Span>& words) {
  const std::size_t first = words.size();
  bool previous = false;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& [span, match] = parts[i];
    if (behavior == Behavior::kRemoved && match) continue;
    // Of consecutive matches, only the first joins the previous word and only the last joins the next.
    const bool joined = behavior == Behavior::kContiguous           ? match == previous
                        : behavior == Behavior::kMergedWithPrevious ? match && !previous
                        : behavior == Behavior::kMergedWithNext     ? i > 0 && parts[i - 1].match && !match
                                                                    : false;
    if (joined && words.size() > first)
      words.back().end = base + span.end;
    else
      words.push_back({base + span.begin, base + span.end});
    previous = match;
  }
}

// Split every word. `cut` returns the parts of one word, as parts_of does, or an error.
template <typename Cut>
Result<void> split(Words& words, Behavior behavior, const Cut& cut) {
  std::vector<Span> spans;
  spans.reserve(words.spans.size());
  const std::size_t begin = words.spans.empty() ? 0 : words.spans.front().begin;
  for (const Span& span : words.spans) {
    const Result<std::vector<Part>> parts = cut(std::string_view(words.text).substr(span.begin, span.end - span.begin));
    if (!parts) return std::unexpected(parts.error());
    join_parts(parts.value(), span.begin, behavior, spans);
  }
  std::erase_if(spans, [](const Span& span) { return span.begin == span.end; });
  words.at_start = words.at_start && !spans.empty() && spans.front().begin == begin;
  words.spans = std::move(spans);
  return {};
}

Result<void> split_by(Words& words, const Pattern& pattern, Behavior behavior, bool invert) {
  return split(words, behavior, [&](std::string_view word) -> Result<std::vector<Part>> {
    std::vector<Span> matches;
    if (const Result<void> found = find(pattern, word, matches); !found) return std::unexpected(found.error());
    return parts_of(matches, word.size(), invert);
  });
}

// Replace every word by what `rewrite` appends for it.
template <typename Rewrite>
void rewrite_words(Words& words, const Rewrite& rewrite) {
  std::string text;
  text.reserve(words.text.size() + words.text.size() / 4);
  for (std::size_t i = 0; i < words.spans.size(); ++i) {
    const Span span = words.spans[i];
    const std::size_t begin = text.size();
    rewrite(std::string_view(words.text).substr(span.begin, span.end - span.begin), words.at_start && i == 0, text);
    words.spans[i] = {begin, text.size()};
  }
  words.text = std::move(text);
}

struct ByteTables {
  std::array<char32_t, 256> character{};
  std::array<int, 512> byte{};

  constexpr ByteTables() {
    byte.fill(-1);
    char32_t next = 256;
    for (char32_t c = 0; c < 256; ++c) {
      const bool shows = (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || c >= 0xAE;
      character[c] = shows ? c : next++;
      byte[character[c]] = static_cast<int>(c);
    }
  }
};

constexpr ByteTables kBytes;

struct Apply {
  Words& words;

  Result<void> operator()(const SplitBy& step) const {
    return split_by(words, step.pattern, step.behavior, step.invert);
  }

  Result<void> operator()(SplitDigits step) const {
    const Behavior behavior = step.individual ? Behavior::kIsolated : Behavior::kContiguous;
    return split(words, behavior, [](std::string_view word) -> Result<std::vector<Part>> {
      std::vector<Span> digits;
      for (std::size_t at = 0; at < word.size();) {
        const CodePoint next = code_point_at(word, at);
        if (is_number(next.value)) digits.push_back({at, at + next.size});
        at += next.size;
      }
      return parts_of(digits, word.size(), false);
    });
  }

  Result<void> operator()(const Metaspace& step) const {
    rewrite_words(words, [&step](std::string_view word, bool first, std::string& out) {
      const bool wanted =
          step.prepend == Metaspace::Prepend::kAlways || (step.prepend == Metaspace::Prepend::kFirst && first);
      if (wanted && !word.starts_with(' ') && !word.starts_with(step.replacement)) out += step.replacement;
      for (const char c : word) {
        if (c == ' ')
          out += step.replacement;
        else
          out += c;
      }
    });
    if (!step.split) return {};
    return split_by(words, step.replacement, Behavior::kMergedWithNext, false);
  }

  Result<void> operator()(const ByteLevel& step) const {
    if (step.add_prefix_space)
      rewrite_words(words, [](std::string_view word, bool, std::string& out) {
        if (!word.starts_with(' ')) out += ' ';
        out += word;
      });
    if (step.split) {
      static const Result<Regex> gpt2 = Regex::compile(kGpt2);
      if (!gpt2) return std::unexpected(gpt2.error());
      if (const Result<void> done = split_by(words, gpt2.value(), Behavior::kIsolated, false); !done) return done;
    }
    rewrite_words(words, [](std::string_view word, bool, std::string& out) {
      for (const char c : word) append(out, byte_character(static_cast<unsigned char>(c)));
    });
    return {};
  }
};

}  // namespace

char32_t byte_character(unsigned char byte) { return kBytes.character[byte]; }

int byte_of_character(char32_t character) { return character < kBytes.byte.size() ? kBytes.byte[character] : -1; }

Result<void> pre_tokenize(const std::vector<PreTokenizer>& steps, Words& words) {
  for (const PreTokenizer& step : steps)
    if (Result<void> done = std::visit(Apply{words}, step); !done) return done;
  return {};
}

}  // namespace edgekiln::text
