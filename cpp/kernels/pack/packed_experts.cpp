#include "kernels/pack/packed_experts.h"

#include <cstring>
#include <optional>
#include <utility>

#include "kernels/common/mapped_file.h"
#include "kernels/pack/float16_group_params.h"

namespace edgekiln {

namespace {

// Drops the mapped pages of an expert that has been read.
void drop(const MatMulNBitsArgs& weight) {
  const std::size_t group_bytes = weight.n * weight.groups() * sizeof(float);
  drop_mapped_pages(weight.codes, weight.n * weight.column_bytes());
  drop_mapped_pages(weight.scales, group_bytes);
  if (weight.group_bias) drop_mapped_pages(weight.group_bias, group_bytes);
}

// Of all experts, so that one variant is that of all.
std::uint32_t variant_of(const MatMulNBitsArgs& weight, std::size_t count) {
  const std::size_t n = weight.n / count;
  bool float16 = true;
  for (std::size_t i = 0; float16 && i < count; ++i) {
    const MatMulNBitsArgs expert = weight.columns(i * n, n);
    float16 = Float16GroupParams(expert.scales, expert.group_bias, n * expert.groups(), expert.midpoint()).scales();
  }
  std::uint32_t all = kSixBits | kFactoredScales | (float16 ? kFloat16Params : 0u);
  // Codes and factored scales decide over weights of 8 bits in groups of 16, and over no others.
  if (weight.bits != 8 || weight.group_size >= 32) return all & kFloat16Params;
  for (std::size_t i = 0; i < count && all & kSixBits; ++i) {
    MatMulNBitsArgs expert = weight.columns(i * n, n);
    Float16GroupParams params;
    if (float16) params = {expert.scales, expert.group_bias, n * expert.groups(), expert.midpoint()};
    expert.float16_scales = params.scales();
    expert.float16_min = params.mins();
    FactoredScales factored;
    all &= nbits_variant(expert, factored) | kFloat16Params;
    drop_mapped_pages(expert.codes, n * expert.column_bytes());
  }
  if (!(all & kSixBits)) return all & kFloat16Params;
  return all & kFactoredScales ? kSixBits | kFactoredScales : all;
}

// Packs expert `index` of the experts of `weight`, as `shape` says.
void pack_expert(const MatMulNBitsArgs& weight, const PackedNBits& shape, std::size_t index, std::uint8_t* to) {
  MatMulNBitsArgs expert = weight.columns(index * shape.n, shape.n);
  Float16GroupParams params;
  FactoredScales factored;
  if (shape.float16_params) params = {expert.scales, expert.group_bias, shape.n * expert.groups(), expert.midpoint()};
  if (shape.factored_scales) factored = FactoredScales(expert.scales, shape.n, expert.groups());
  expert.float16_scales = params.scales();
  expert.float16_min = params.mins();
  pack_columns(expert, shape, 0, to, factored);
  drop(expert);
}

// In the cache of `place`, or packed when they are used.
ExpertMemory expert_memory(std::size_t count, std::size_t size, std::uint32_t variant, const PackPlace& place,
                           const ExpertMemory::Pack& pack) {
  if (!place.cache) return {count, size, nullptr, false, pack};
  const std::size_t stride = ExpertMemory::stride(size);
  const CachePages pages = place.cache->pages_of_experts();
  ArenaBytes packed = place.cache->find_or_write(place.id, count * stride, variant, pages, [&](std::uint8_t* to) {
    for (std::size_t i = 0; i < count; ++i) pack(i, to + i * stride);
  });
  return {count, size, std::move(packed), pages == CachePages::kMapped, pack};
}

MatMulNBitsArgs expert_shape(MatMulNBitsArgs weight, std::size_t count) {
  weight.n /= count;
  return weight;
}

// Of the cached experts; nullopt where the cache does not have them.
std::optional<std::uint32_t> cached_variant(const MatMulNBitsArgs& weight, std::size_t count, const PackPlace& place) {
  const std::optional<CachedWeight> cached =
      place.cache ? place.cache->find(place.id, place.cache->pages_of_experts()) : std::nullopt;
  if (!cached || cached->variant >= kNBitsVariants) return std::nullopt;
  const auto variant = static_cast<std::uint32_t>(cached->variant);
  const std::size_t size = packed_nbits_shape(expert_shape(weight, count), variant).bytes();
  return cached->size == count * ExpertMemory::stride(size) ? std::optional(variant) : std::nullopt;
}

}  // namespace

ExpertMemory::ExpertMemory(std::size_t count, std::size_t size, ArenaBytes packed, bool on_disk, Pack pack)
    : size_(size), packed_(std::move(packed)), on_disk_(on_disk), pack_(std::move(pack)) {
  if (!packed_) slots_ = std::make_unique<Slot[]>(count);
}

ArenaBytes ExpertMemory::expert(std::size_t index) const {
  if (packed_) {
    ArenaBytes memory{packed_, packed_.get() + index * stride(size_)};
    if (on_disk_) read_ahead(memory.get(), size_);
    return memory;
  }
  Slot& slot = slots_[index];
  std::call_once(slot.once, [&] {
    ArenaBytes memory = arena_allocate(size_);
    pack_(index, memory.get());
    slot.memory = std::move(memory);
  });
  return slot.memory;
}

NBitsExperts::NBitsExperts(const MatMulNBitsArgs& weight, std::size_t count, const PackPlace& place)
    : shape_([&] {
        const std::optional<std::uint32_t> cached = cached_variant(weight, count, place);
        return packed_nbits_shape(expert_shape(weight, count), cached ? *cached : variant_of(weight, count));
      }()),
      memory_([&] {
        const ExpertMemory::Pack pack = [weight, shape = shape_](std::size_t index, std::uint8_t* to) {
          pack_expert(weight, shape, index, to);
        };
        const std::uint32_t variant = (shape_.float16_params ? kFloat16Params : 0u) |
                                      (shape_.bits == 6 ? kSixBits : 0u) |
                                      (shape_.factored_scales ? kFactoredScales : 0u);
        return expert_memory(count, shape_.bytes(), variant, place, pack);
      }()) {}

PackedNBits NBitsExperts::expert(std::size_t index) const {
  PackedNBits weight = shape_;
  weight.memory = memory_.expert(index);
  return weight;
}

Int8Experts::Int8Experts(const std::int8_t* codes, const float* scales, std::size_t count, std::size_t k, std::size_t n,
                         Int8Order order, const PackPlace& place)
    : k_(k), n_(n), order_(order), memory_([&] {
        const ExpertMemory::Pack pack = [=](std::size_t index, std::uint8_t* to) {
          const std::int8_t* const expert = codes + index * k * n;
          PackedInt8::write(expert, scales + index * n, k, n, order, to);
          drop_mapped_pages(expert, k * n);
        };
        return expert_memory(count, PackedInt8::bytes(k, n, order), 0, place, pack);
      }()) {}

}  // namespace edgekiln
