// The shapes of the maps of rotations: one list, csrc/math/maps.h, for the operators of both devices.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "math/maps.h"
#include "ops/shapes.h"

namespace geo {

// Last dimensions of an item of so many numbers.
inline std::vector<int64_t> dims_of(int numbers) {
  if (numbers == 1) return {};
  if (numbers == 9) return {3, 3};
  return {numbers};
}

// Number of items; every argument holds as many, of one dtype, on one device.
template <class Map>
int64_t check_map(const char* op, const std::vector<torch::stable::Tensor>& x) {
  constexpr int sizes[] = {Map::first, Map::second, Map::third};
  for (size_t i = 0; i < x.size(); ++i) check_trailing(op, x[i], dims_of(sizes[i]));
  const int64_t n = x[0].numel() / Map::first;
  for (size_t i = 1; i < x.size(); ++i) {
    STD_TORCH_CHECK(n == x[i].numel() / sizes[i], op, ": all arguments must hold the same number of items");
    STD_TORCH_CHECK(x[0].scalar_type() == x[i].scalar_type(), op, ": all arguments must have one dtype");
    STD_TORCH_CHECK(x[0].get_device_index() == x[i].get_device_index(), op, ": all arguments must be on one device");
  }
  return n;
}

// Contiguous arguments, and an empty result of their batch.
template <class Map>
torch::stable::Tensor prepare(std::vector<torch::stable::Tensor>& x) {
  for (auto& t : x) t = torch::stable::contiguous(t);
  return torch::stable::new_empty(x[0], with_trailing(x[0], dims_of(Map::first), dims_of(Map::out)));
}

}  // namespace geo

// name_op for every map, by the run<Map>(op, arguments) of a device, and its registration.
#define GEO_OP_OF_ONE(name, ...) \
  static Tensor name##_op(const Tensor& a) { return run<geo::Map_##name>(#name, {a}); }
#define GEO_OP_OF_TWO(name, ...) \
  static Tensor name##_op(const Tensor& a, const Tensor& b) { return run<geo::Map_##name>(#name, {a, b}); }
#define GEO_OP_OF_THREE(name, ...) \
  static Tensor name##_op(const Tensor& a, const Tensor& b, const Tensor& c) { return run<geo::Map_##name>(#name, {a, b, c}); }
#define GEO_REGISTER(name, ...) m.impl(#name, TORCH_BOX(&name##_op));
