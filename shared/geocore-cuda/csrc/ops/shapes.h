// Shapes of items: what stands in the last dimensions, and the batch before it.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <vector>

namespace geo {

using torch::headeronly::ScalarType;

inline bool is_double(const torch::stable::Tensor& t, const char* op) {
  const ScalarType kind = t.scalar_type();
  STD_TORCH_CHECK(kind == ScalarType::Float || kind == ScalarType::Double, op, ": expected float32 or float64");
  return kind == ScalarType::Double;
}

inline std::vector<int64_t> shape_of(const torch::stable::Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

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

// Order of square matrices (..., n, n), from `low` to `high`.
inline int check_order(const char* op, const char* name, const torch::stable::Tensor& A, int64_t low, int64_t high) {
  const int64_t n = A.dim() < 2 ? 0 : A.size(-1);
  const bool fits = n >= low && n <= high && A.size(-2) == n;
  STD_TORCH_CHECK(fits || low != high, op, ": expected ", name, " of shape (..., ", high, ", ", high, ")");
  STD_TORCH_CHECK(fits, op, ": expected ", name, " of shape (..., n, n) with n from ", low, " to ", high);
  return static_cast<int>(n);
}

// A gradient has the shape and dtype of what it belongs to.
inline void check_like(const char* op, const char* name, const torch::stable::Tensor& g, const char* of, const torch::stable::Tensor& x) {
  STD_TORCH_CHECK(shape_of(g) == shape_of(x) && g.scalar_type() == x.scalar_type(), op, ": expected ", name, " like ", of);
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
