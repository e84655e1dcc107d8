// Stop strings in the bytes of tokens, split at every possible size.
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

// Push `text` in tokens of `size` bytes.
Shown show(const std::string& text, const std::vector<std::string>& stop, std::size_t size) {
  StopMatcher matcher(stop);
  std::vector<std::string> tokens;
  std::size_t done = 0;
  Shown shown;
  for (std::size_t at = 0; at < text.size(); at += size) {
    tokens.push_back(text.substr(at, size));
    const StopMatcher::Match match = matcher.push(tokens.back());
    for (std::size_t i = 0; i < match.count; ++i) shown.text += tokens[done++];
    if (match.cut) return {shown.text + tokens[done].substr(0, *match.cut), true};
  }
  while (done < tokens.size()) shown.text += tokens[done++];
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

TEST_CASE("tokens that may contain the start of a stop string are held back") {
  StopMatcher matcher({"\n\nUser:", "END"});
  CHECK(matcher.push("a\n").count == 0);
  CHECK(matcher.push("\nUse").count == 0);
  CHECK(matcher.push("d E").count == 2);
  CHECK(matcher.push("").count == 0);
  CHECK(!matcher.push("N").cut);
  const StopMatcher::Match match = matcher.push("D!");
  CHECK(match.count == 0);
  CHECK(match.cut == 2);
}
