// Which item of a broadcast argument belongs to a row of x: cosines of rotary embeddings, blocks of rotations.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

constexpr int MAX_DIMS = 8;

// Sizes of the batch of x, and how far the other argument moves along each dimension.
struct RowMap {
  int dims;
  int64_t size[MAX_DIMS];
  int64_t stride[MAX_DIMS];  // in items of the other argument; 0 where it is broadcast

  GEO_FN int64_t at(int64_t row) const {
    int64_t found = 0;
    for (int i = dims - 1; i >= 0; --i) {
      found += (row % size[i]) * stride[i];
      row /= size[i];
    }
    return found;
  }
};

#if !defined(__CUDACC__)
// The same for one row after the other, as an odometer.
struct RowWalk {
  RowMap map;
  int64_t index[MAX_DIMS], at = 0;

  RowWalk(int dims, const int64_t* size, const int64_t* stride, int64_t row) : map{dims, {}, {}} {
    for (int i = 0; i < dims; ++i) map.size[i] = size[i], map.stride[i] = stride[i];
    for (int i = dims - 1; i >= 0; --i) {
      index[i] = row % size[i];
      row /= size[i];
      at += index[i] * stride[i];
    }
  }
  void next() {
    for (int i = map.dims - 1; i >= 0; --i) {
      at += map.stride[i];
      if (++index[i] < map.size[i]) return;
      at -= map.stride[i] * map.size[i];
      index[i] = 0;
    }
  }
};
#endif

}  // namespace GEO_ISA
}  // namespace geo
