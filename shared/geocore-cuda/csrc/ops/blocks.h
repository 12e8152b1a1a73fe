// What both devices ask of block-diagonal rotations.
#pragma once

#include "ops/rows.h"

namespace geo {

// Rows of m blocks of size k, up to 8 for the kernels.
struct Blocks {
  int64_t m, k;
};

inline Blocks check_blocks(const char* op, const torch::stable::Tensor& x, const torch::stable::Tensor& blocks) {
  STD_TORCH_CHECK(blocks.dim() >= 3 && blocks.size(-1) == blocks.size(-2), op, ": expected blocks of shape (..., m, k, k)");
  const Blocks found{blocks.size(-3), blocks.size(-1)};
  STD_TORCH_CHECK(found.k >= 2 && found.k <= 8, op, ": expected blocks of size 2 to 8");
  STD_TORCH_CHECK(x.dim() >= 1 && x.size(-1) == found.m * found.k, op, ": expected x of shape (..., m k)");
  STD_TORCH_CHECK(x.scalar_type() == blocks.scalar_type(), op, ": x and blocks must have one dtype");
  STD_TORCH_CHECK(x.get_device_index() == blocks.get_device_index(), op, ": x and blocks must be on one device");
  return found;
}

}  // namespace geo
