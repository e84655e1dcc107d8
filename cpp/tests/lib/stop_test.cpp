// Stop strings in streamed text, split at every possible size.
#include "generate/stop.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace {

using edgekiln::StopMatcher;

struct Shown {
  std::string text;
  bool stopped = false;
};

// Push `text` in chunks of at least `size` bytes that end at character boundaries.
Shown show(const std::string& text, const std::vector<std::string>& stop, std::size_t size) {
  StopMatcher matcher(stop);
  Shown shown;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = std::min(text.size(), at + size);
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    const StopMatcher::Match found = matcher.push(text.substr(at, end - at));
    CHECK((found.text.empty() || (static_cast<unsigned char>(found.text.front()) & 0xC0) != 0x80));
    shown.text += found.text;
    if (found.stopped) return {shown.text, true};
    at = end;
  }
  shown.text += matcher.flush();
  return shown;
}

void check(const std::string& text, const std::vector<std::string>& stop, const std::string& expected, bool stopped) {
  for (std::size_t size = 1; size <= text.size(); ++size) {
    const Shown shown = show(text, stop, size);
    CHECK(shown.text == expected);
    CHECK(shown.stopped == stopped);
  }
}

}  // namespace

TEST_CASE("the text before the first complete stop string is shown") {
  check("one two three", {}, "one two three", false);
  check("one two three", {"two"}, "one ", true);
  check("one tw", {"two"}, "one tw", false);
  check("aaab", {"aab"}, "a", true);
  // The stop string that ends first wins; of two that end together, the longer.
  check("abcdef", {"cdef", "bc"}, "a", true);
  check("abcdef", {"cd", "bcd"}, "a", true);
  // Multi-byte characters that share their first byte.
  check("na\u00efve \u00e9t\u00e9", {"\u00e9t\u00e8"}, "na\u00efve \u00e9t\u00e9", false);
  check("\u65e5\u672c\u8a9e", {"\u8a9e"}, "\u65e5\u672c", true);
}

TEST_CASE("whole characters are held back") {
  // "\u00e8" is not held back for the byte that it shares with "\u00e9".
  StopMatcher matcher({"\u00e9!"});
  CHECK(matcher.push("\u00e8").text == "\u00e8");
  CHECK(matcher.push("\u00e9").text.empty());
  CHECK(matcher.push("?").text == "\u00e9?");
}
