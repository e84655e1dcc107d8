// Brings weights into panels, once, when a session is made.
#include <algorithm>
#include <cstring>

#include "kernels/packed_nbits.h"

namespace edgekiln {

namespace {

constexpr std::size_t kWord = sizeof(std::uint32_t);

void put_number(const CodePanels& panels, std::uint8_t* to, std::size_t column, float value, Half half) {
  if (panels.half) {
    std::memcpy(to + column * sizeof half, &half, sizeof half);
  } else {
    std::memcpy(to + column * sizeof value, &value, sizeof value);
  }
}

void pack_column(const MatMulNBitsCall& call, const CodePanels& panels, std::size_t column, std::uint8_t* record) {
  const std::size_t lane = column % kPanelWidth, words = call.group * call.bits / 8 / kWord;
  for (std::size_t group = 0; group < call.groups(); ++group, record += panels.record_bytes()) {
    const std::uint8_t* codes = call.codes + column * call.row_bytes() + group * words * kWord;
    for (std::size_t word = 0; word < words; ++word)
      std::memcpy(record + (word * kPanelWidth + lane) * kWord, codes + word * kWord, kWord);
    const std::size_t at = column * call.groups() + group;
    std::uint8_t* numbers = record + panels.codes_bytes();
    put_number(panels, numbers, lane, call.scales[at], panels.half ? call.half_scales[at] : Half{});
    std::uint8_t* zeros = numbers + kPanelWidth * panels.number_bytes();
    if (panels.zero == Zero::kZeroPoints)
      zeros[lane] = static_cast<std::uint8_t>(
          zero_point_of(call.zero_points + column * call.zero_point_bytes(), call.bits_of_zero_points(), group));
    if (panels.zero == Zero::kOffsets)
      put_number(panels, zeros, lane, call.offsets[at], panels.half ? call.half_minima[at] : Half{});
  }
}

}  // namespace

CodePanels unpacked_panels(const MatMulNBitsCall& call, bool half) {
  const Zero zero = call.zero_points ? Zero::kZeroPoints : call.offsets ? Zero::kOffsets : Zero::kMiddle;
  CodePanels panels{call.depth, call.columns, call.group, call.bits, zero, half};
  const std::size_t bytes = panels.panels() * panels.panel_bytes();
  panels.memory = lasting_bytes(bytes);
  // Columns that are only there to fill the last panel.
  if (call.columns % kPanelWidth)
    std::memset(panels.memory.get() + bytes - panels.panel_bytes(), 0, panels.panel_bytes());
  return panels;
}

void pack_columns(const MatMulNBitsCall& call, CodePanels& panels, std::size_t first) {
  for (std::size_t column = 0; column < call.columns; ++column)
    pack_column(call, panels, column, panels.memory.get() + (first + column) / kPanelWidth * panels.panel_bytes());
}

CodePanels panels_of(const MatMulNBitsCall& call) {
  CodePanels panels = unpacked_panels(call, call.half_scales != nullptr);
  pack_columns(call, panels, 0);
  return panels;
}

}  // namespace edgekiln
