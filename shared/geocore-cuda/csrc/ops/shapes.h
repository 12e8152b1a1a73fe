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

// Square systems A (..., m, m) with right-hand sides B (..., m, d) of the same batch and dtype.
inline void check_systems(const torch::stable::Tensor& A, const torch::stable::Tensor& B) {
  const int64_t rank = A.dim();
  STD_TORCH_CHECK(rank >= 2 && A.size(-1) == A.size(-2), "unit_solve: expected A of shape (..., m, m)");
  STD_TORCH_CHECK(B.dim() == rank && B.size(-2) == A.size(-1), "unit_solve: expected B of shape (..., m, d)");
  for (int64_t i = 0; i + 2 < rank; ++i) STD_TORCH_CHECK(A.size(i) == B.size(i), "unit_solve: A and B must have one batch shape");
  STD_TORCH_CHECK(A.scalar_type() == B.scalar_type(), "unit_solve: A and B must have one dtype");
}

}  // namespace geo
