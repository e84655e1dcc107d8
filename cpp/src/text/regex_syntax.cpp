// Translates Oniguruma's syntax to PCRE2's: equal constructs are copied, others are rewritten or refused.
#include <algorithm>
#include <array>
#include <cstdint>

#include "text/regex.h"
#include "util/str_cat.h"

namespace edgekiln::text {

namespace {

// Oniguruma's `\w`: letters, marks, digits, connectors, and some numbers and symbols.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";

constexpr std::array<std::string_view, 37> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Cn", "Han"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); }
bool is_letter_or_digit(char c) { return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    // Elsewhere, Oniguruma applies it to the rest of the group including all alternatives, PCRE2 does not.
    if (take("(?i)")) out_ += "(?i)";
    while (!rest().empty() && refused_.empty()) step();
    if (refused_.empty()) return std::move(out_);
    return fail(Code::kUnsupported, "the pattern ", pattern_, " with ", refused_);
  }

 private:
  std::string_view rest() const { return pattern_.substr(at_); }

  bool take(std::string_view text) {
    if (!rest().starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  void refuse(std::string_view what) {
    if (refused_.empty()) refused_ = what.empty() ? "an unfinished escape" : what;
  }

  void step() {
    const char c = rest().front();
    if (c == '\\') return escape(false);
    if (c == '[') return character_class();
    if (c == '(') return group();
    if (c == '{') return interval();
    out_ += c;
    ++at_;
  }

  void group() {
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"})
      if (take(opening)) {
        out_ += opening;
        return;
      }
    if (rest().starts_with("(?") || rest().starts_with("(*")) return refuse(rest().substr(0, 3));
    ++at_;
    out_ += '(';
  }

  void interval() {
    const std::size_t close = rest().find('}');
    const std::string_view inside = close == std::string_view::npos ? "" : rest().substr(1, close - 1);
    const std::size_t comma = inside.find(',');
    const bool range = comma != std::string_view::npos;
    const std::string_view least = inside.substr(0, comma);
    const std::string_view most = range ? inside.substr(comma + 1) : "";
    if (!std::all_of(least.begin(), least.end(), is_digit) || !std::all_of(most.begin(), most.end(), is_digit) ||
        (least.empty() && most.empty())) {
      ++at_;
      out_ += "\\{";
      return;
    }
    const std::string_view suffix = rest().substr(close + 1, 1);
    // In Oniguruma `{2}+` is not possessive and `{2}?` is not lazy.
    if (suffix == "+" || (suffix == "?" && !range)) return refuse(rest().substr(0, close + 2));
    out_ += '{';
    out_ += least.empty() ? "0" : least;
    if (range) out_ += ',';
    out_ += most;
    out_ += '}';
    at_ += close + 1;
  }

  void character_class() {
    ++at_;
    out_ += '[';
    if (take("^")) out_ += '^';
    if (take("]")) out_ += "\\]";
    while (!rest().empty() && refused_.empty()) {
      if (take("]")) {
        out_ += ']';
        return;
      }
      const char c = rest().front();
      if (c == '\\') {
        escape(true);
      } else if (c == '[' || rest().starts_with("&&")) {
        return refuse("a class in a class");
      } else {
        out_ += c;
        ++at_;
      }
    }
    refuse("a class without an end");
  }

  void escape(bool in_class) {
    const std::string_view all = rest();
    if (all.size() < 2) return refuse("");
    const char c = all[1];
    at_ += 2;
    if (c == 'p' || c == 'P') return property(c);
    if (c == 'x' || c == 'u') return hexadecimal(c);
    if (c == 'w') {
      out_ += in_class ? std::string(kWord) : str_cat('[', kWord, ']');
    } else if (c == 'W' && !in_class) {
      out_ += str_cat("[^", kWord, ']');
    } else if (c == 'v') {
      out_ += "\\x{B}";
    } else if (std::string_view("sSdDrntfae").find(c) != std::string_view::npos || !is_letter_or_digit(c)) {
      out_ += '\\';
      out_ += c;
    } else {
      refuse(all.substr(0, 2));
    }
  }

  void property(char letter) {
    const std::size_t close = rest().find('}');
    if (!rest().starts_with('{') || close == std::string_view::npos) return refuse("\\p without a name");
    const std::string_view name = rest().substr(1, close - 1);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
      return refuse(str_cat("\\p{", name, '}'));
    out_ += str_cat('\\', letter, '{', name == "Han" ? "sc:" : "", name, '}');
    at_ += close + 1;
  }

  // \xHH, \uHHHH or \x{H...}.
  void hexadecimal(char kind) {
    const bool braces = kind == 'x' && take("{");
    std::size_t count = 0;
    while (count < rest().size() && count < (braces ? 6 : kind == 'x' ? 2 : 4) && is_hex(rest()[count])) ++count;
    const std::string_view digits = rest().substr(0, count);
    at_ += count;
    if (braces ? count == 0 || !take("}") : count != (kind == 'x' ? 2 : 4)) return refuse("an unfinished escape");
    // Without braces, Oniguruma reads \x80 and above as a byte.
    if (!braces && kind == 'x' && digits[0] >= '8') return refuse(str_cat("\\x", digits));
    out_ += str_cat("\\x{", digits, '}');
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
  std::string refused_;
};

}  // namespace

Result<std::string> to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace edgekiln::text
