// What both devices ask of oriented boxes; the checks answer whether the numbers are double.
#pragma once

#include "ops/shapes.h"

namespace geo {

// What is measured of a pair: the area of the overlap, over that of the union, over that of the first box. csrc/cpu knows the numbers.
enum Kind { AREA, OF_UNION, OF_FIRST };
inline Kind kind_of(bool of_first) { return of_first ? OF_FIRST : OF_UNION; }

inline bool check_pairs(const torch::stable::Tensor& a, const torch::stable::Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.dim() >= 1 && a.size(-1) == 5 && shape_of(a) == shape_of(b), op, ": expected a and b of one shape (..., 5)");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": expected a and b of one dtype");
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index(), op, ": expected a and b on one device");
  return is_double(a, op);
}

inline bool check_sets(const torch::stable::Tensor& a, const torch::stable::Tensor& b, int64_t dim, const char* op) {
  STD_TORCH_CHECK(a.dim() == dim && b.dim() == dim && a.size(-1) == 5 && b.size(-1) == 5 && (dim == 2 || a.size(0) == b.size(0)), op,
                  dim == 2 ? ": expected a of shape (n, 5) and b of shape (m, 5)" : ": expected a of shape (k, n, 5) and b of shape (k, m, 5)");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": expected a and b of one dtype");
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index(), op, ": expected a and b on one device");
  return is_double(a, op);
}

inline bool check_suppression(const torch::stable::Tensor& boxes, const torch::stable::Tensor& kinds) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5, "obb_nms: expected boxes of shape (n, 5)");
  STD_TORCH_CHECK(kinds.dim() == 1 && (kinds.size(0) == 0 || kinds.size(0) == boxes.size(0)) && kinds.scalar_type() == ScalarType::Long,
                  "obb_nms: expected int64 kinds of shape (n,) or (0,)");
  STD_TORCH_CHECK(kinds.get_device_index() == boxes.get_device_index(), "obb_nms: expected boxes and kinds on one device");
  return is_double(boxes, "obb_nms");
}

}  // namespace geo
