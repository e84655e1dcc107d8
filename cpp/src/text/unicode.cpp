#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace edgekiln::text {

namespace {

// The range of the sorted `table` that contains `code_point`, or null.
template <typename Table>
auto find(const Table& table, char32_t code_point) {
  const auto after = std::upper_bound(std::begin(table), std::end(table), code_point,
                                      [](char32_t value, const auto& range) { return value < range.first; });
  const auto* found = after == std::begin(table) ? nullptr : &*std::prev(after);
  return found != nullptr && code_point <= found->last ? found : nullptr;
}

utf8proc_int32_t library_code(char32_t code_point) { return static_cast<utf8proc_int32_t>(code_point); }

std::string_view category(char32_t code_point) {
  const CategoryRange* added = find(kAddedCategories, code_point);
  return added != nullptr ? added->category : utf8proc_category_string(library_code(code_point));
}

// For each category, characters with three and four bytes of UTF-8 that every Unicode version has.
struct Substitute {
  std::string_view category;
  char32_t three_bytes;
  char32_t four_bytes;
};

constexpr Substitute kSubstitutes[] = {{"Lu", 0x1E00, 0x10400}, {"Ll", 0x1E01, 0x10428}, {"Lm", 0x1D2C, 0x16B40},
                                       {"Lo", 0xE01, 0x10000},  {"Mn", 0xE31, 0x10A01},  {"Mc", 0x903, 0x11000},
                                       {"Nd", 0x966, 0x104A0},  {"No", 0x2070, 0x10107}, {"So", 0x2100, 0x10137},
                                       {"Po", 0x2016, 0x10100}, {"Pd", 0x2010, 0x10EAD}, {"Sm", 0x2044, 0x1D6C1},
                                       {"Cf", 0x200B, 0x110BD}};

bool all_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Append the normalization of the code points in `part` to `out`, and clear `part`.
void flush(std::vector<utf8proc_int32_t>& part, utf8proc_option_t options, std::string& out) {
  if (part.empty()) return;
  std::vector<utf8proc_int32_t> decomposed;
  decomposed.reserve(part.size() * 2);
  for (const utf8proc_int32_t code : part) {
    constexpr int kMaxDecomposition = 32;  // the longest has 18 code points
    utf8proc_int32_t buffer[kMaxDecomposition];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(code, buffer, kMaxDecomposition, options, &boundary);
    decomposed.insert(decomposed.end(), buffer, buffer + std::clamp<utf8proc_ssize_t>(count, 0, kMaxDecomposition));
  }
  // Canonical ordering: sort consecutive marks by combining class.
  const auto combining = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  for (auto it = decomposed.begin(); it != decomposed.end();) {
    it = std::find_if(it, decomposed.end(), [&](auto code) { return combining(code) != 0; });
    const auto end = std::find_if(it, decomposed.end(), [&](auto code) { return combining(code) == 0; });
    std::stable_sort(it, end, [&](auto a, auto b) { return combining(a) < combining(b); });
    it = end;
  }
  const auto composed =
      utf8proc_normalize_utf32(decomposed.data(), static_cast<utf8proc_ssize_t>(decomposed.size()),
                               static_cast<utf8proc_option_t>(options & (UTF8PROC_COMPOSE | UTF8PROC_STABLE)));
  for (utf8proc_ssize_t i = 0; i < composed; ++i)
    append(out, static_cast<char32_t>(decomposed[static_cast<std::size_t>(i)]));
  part.clear();
}

}  // namespace

bool is_space(char32_t c) {
  return c == ' ' || (c >= 0x9 && c <= 0xD) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return find(kAddedNumbers, c) != nullptr || utf8proc_category_string(library_code(c))[0] == 'N';
}

bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_';
  const std::string_view kind = category(c);
  if (kind[0] == 'L' || kind[0] == 'M' || kind == "Nd" || kind == "Nl" || kind == "Pc") return true;
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

char32_t substitute_unknown(char32_t c) {
  if (c == 0x180E) return 0x200B;  // PCRE2 treats it as a space
  const CategoryRange* added = find(kAddedCategories, c);
  if (added == nullptr) return c;
  constexpr char32_t kHan = 0x20000;
  if (c > kHan) return kHan;
  for (const Substitute& known : kSubstitutes)
    if (known.category == added->category) return c < 0x10000 ? known.three_bytes : known.four_bytes;
  return c;
}

std::string normalized(std::string_view text, Form form) {
  if (all_ascii(text)) return std::string(text);
  const bool compose = form == Form::kNfc || form == Form::kNfkc;
  const bool compatible = form == Form::kNfkc || form == Form::kNfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> part;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint next = code_point_at(text, at);
    at += next.size;
    if (find(kNotNormalized, next.value) != nullptr) {
      flush(part, options, out);
      append(out, next.value);
    } else {
      part.push_back(library_code(next.value));
    }
  }
  flush(part, options, out);
  return out;
}

namespace {

// Whether normalization treats the character `next` apart from `before`: it neither moves into it nor composes with it.
bool begins_section(std::string_view before, std::string_view next, Form form) {
  if (next.size() == 1) return true;
  const std::string decomposed = normalized(next, Form::kNfd);
  const utf8proc_int32_t first = library_code(code_point_at(decomposed, 0).value);
  if (utf8proc_get_property(first)->combining_class != 0) return false;
  return normalized(std::string(before) + std::string(next), form) == normalized(before, form) + normalized(next, form);
}

}  // namespace

std::vector<Span> normalization_sections(std::string_view text, Form form) {
  std::vector<Span> sections;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at + code_point_at(text, at).size;
    const std::string_view next = text.substr(at, end - at);
    if (sections.empty() || begins_section(text.substr(sections.back().begin, at - sections.back().begin), next, form))
      sections.push_back({at, end});
    sections.back().end = end;
    at = end;
  }
  return sections;
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint next = code_point_at(text, at);
    at += next.size;
    char32_t lower = static_cast<char32_t>(utf8proc_tolower(library_code(next.value)));
    for (const CaseRange& range : kAddedCapitals)
      if (next.value >= range.first && next.value <= range.last &&
          (next.value - range.first) % static_cast<char32_t>(range.step) == 0)
        lower = static_cast<char32_t>(static_cast<int>(next.value) + range.lower);
    append(out, next.value == 0x130 ? U'i' : lower);
    if (next.value == 0x130) append(out, 0x307);  // the only capital whose lower case is two code points
  }
  return out;
}

}  // namespace edgekiln::text
