// Boxes in the memory of a GPU.
#pragma once

#include "math/boxes.h"

#include <cstdint>

namespace geo {

template <class T>
__device__ Box<T> box_at(const T* boxes, int64_t i) {
  const T* p = boxes + 5 * i;
  return {p[0], p[1], p[2], p[3], p[4]};
}

template <class T>
__device__ bool circles_meet(const Box<T>& a, const Box<T>& b) {
  const T dx = a.x - b.x, dy = a.y - b.y, reach = T(0.5) * (root(a.w * a.w + a.h * a.h) + root(b.w * b.w + b.h * b.h));
  return dx * dx + dy * dy < reach * reach;
}

}  // namespace geo
