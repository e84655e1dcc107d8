// Finds stop strings in streamed text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln {

// Passes UTF-8 text through until a stop string is complete. Holds back a suffix that may become a stop string, in
// whole characters.
class StopMatcher {
 public:
  // No string of `stop` may be empty.
  explicit StopMatcher(std::vector<std::string> stop);

  struct Match {
    std::string text;  // text to show; never part of a stop string
    bool stopped;      // a stop string is complete; it and the text after it are dropped
  };

  Match push(std::string_view text);

  // The text held back, to be called at the end of the stream.
  std::string flush();

 private:
  std::size_t partial_match() const;

  std::vector<std::string> stop_;
  std::size_t longest_ = 0;
  std::string held_;
};

}  // namespace edgekiln
