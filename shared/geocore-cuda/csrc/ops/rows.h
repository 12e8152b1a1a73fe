// How an argument is broadcast against the rows of x: cosines of rope_apply, blocks of block_rotate.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace geo {

// Sizes of the batch of x and, for each, the stride of the other argument in items; neighbours that move together are merged.
struct Rows {
  std::vector<int64_t> size, stride;

  template <class Map>
  Map map() const {
    Map found{static_cast<int>(size.size()), {}, {}};
    for (size_t i = 0; i < size.size(); ++i) found.size[i] = size[i], found.stride[i] = stride[i];
    return found;
  }
};

// `trailing`: dimensions of one item of the other argument, called `name`.
inline Rows rows_of(const char* op, const torch::stable::Tensor& x, const char* name, const torch::stable::Tensor& other, int64_t trailing) {
  const int64_t outer = x.dim() - 1, inner = other.dim() - trailing;
  STD_TORCH_CHECK(inner <= outer, op, ": ", name, " has more batch dimensions than x");
  Rows found;
  std::vector<int64_t> stride(outer, 0);
  int64_t step = 1;
  for (int64_t i = 0; i < inner; ++i) {
    const int64_t have = other.size(inner - 1 - i), want = x.size(outer - 1 - i);
    STD_TORCH_CHECK(have == want || have == 1, op, ": ", name, " cannot be broadcast to the batch of x");
    if (have != 1) stride[outer - 1 - i] = step;
    step *= have;
  }
  for (int64_t i = 0; i < outer; ++i) {
    const int64_t size = x.size(i);
    if (size == 1) continue;
    if (!found.size.empty() && found.stride.back() == stride[i] * size) {
      found.size.back() *= size;
      found.stride.back() = stride[i];
    } else {
      found.size.push_back(size);
      found.stride.push_back(stride[i]);
    }
  }
  STD_TORCH_CHECK(found.size.size() <= 8, op, ": more than 8 batch dimensions");
  return found;
}

inline void check_rope(const torch::stable::Tensor& x, const torch::stable::Tensor& cos, const torch::stable::Tensor& sin) {
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(-1) % 2 == 0, "rope_apply: expected x of shape (..., d) with d even");
  STD_TORCH_CHECK(cos.dim() >= 1 && cos.size(-1) == x.size(-1) / 2, "rope_apply: expected cos of shape (..., d / 2)");
  STD_TORCH_CHECK(cos.dim() == sin.dim(), "rope_apply: cos and sin must have one shape");
  for (int64_t i = 0; i < cos.dim(); ++i) STD_TORCH_CHECK(cos.size(i) == sin.size(i), "rope_apply: cos and sin must have one shape");
  STD_TORCH_CHECK(cos.scalar_type() == x.scalar_type() && sin.scalar_type() == x.scalar_type(), "rope_apply: x, cos and sin must have one dtype");
}

}  // namespace geo
