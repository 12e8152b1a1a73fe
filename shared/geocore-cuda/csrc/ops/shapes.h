// Shapes of items: what stands in the last dimensions, and the batch before it.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <vector>

namespace geo {

inline int64_t product(const std::vector<int64_t>& dims) {
  int64_t n = 1;
  for (const int64_t d : dims) n *= d;
  return n;
}

inline void check_trailing(const char* op, const torch::stable::Tensor& x, const std::vector<int64_t>& trailing) {
  const int64_t rank = static_cast<int64_t>(trailing.size());
  bool fits = x.dim() >= rank;
  for (int64_t i = 0; fits && i < rank; ++i) fits = x.size(i - rank) == trailing[i];
  std::string wanted;
  if (!fits)
    for (const int64_t d : trailing) wanted += ", " + std::to_string(d);
  STD_TORCH_CHECK(fits, op, ": expected shape (...", wanted, ")");
}

inline std::vector<int64_t> with_trailing(const torch::stable::Tensor& x, const std::vector<int64_t>& in, const std::vector<int64_t>& out) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.resize(shape.size() - in.size());
  shape.insert(shape.end(), out.begin(), out.end());
  return shape;
}

}  // namespace geo
