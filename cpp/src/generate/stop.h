// Finding stop strings in text that comes in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace edgekiln {

// Passes UTF-8 text on until a stop string comes; holds back what may yet become one, by whole characters.
class StopMatcher {
 public:
  // `stop` has no empty string.
  explicit StopMatcher(std::vector<std::string> stop);

  struct Found {
    std::string text;  // safe to show
    bool stopped;      // neither the stop string nor what follows is shown
  };

  Found push(std::string_view text);

  // What was held back, when no more text comes.
  std::string flush();

 private:
  std::size_t beginning() const;

  std::vector<std::string> stop_;
  std::size_t longest_ = 0;
  std::string held_;
};

}  // namespace edgekiln
