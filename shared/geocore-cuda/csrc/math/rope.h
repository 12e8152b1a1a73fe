// Planar rotations of coordinate pairs; the reference is geocore.blocks.rope_apply.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

constexpr int MAX_DIMS = 8;

// Which row of cosines belongs to a row of x: sizes of the batch of x, and how far the cosines move along each dimension.
struct RowMap {
  int dims;
  int64_t size[MAX_DIMS];
  int64_t stride[MAX_DIMS];  // in rows of cosines; 0 where they are broadcast
};

GEO_FN int64_t row_of_cosines(const RowMap& map, int64_t row) {
  int64_t at = 0;
  for (int i = map.dims - 1; i >= 0; --i) {
    at += (row % map.size[i]) * map.stride[i];
    row /= map.size[i];
  }
  return at;
}

// One pair; `turn` is the sine, negated for the inverse rotation.
template <class T>
GEO_FN void rotate_pair(T a, T b, T c, T turn, T& u, T& v) {
  u = a * c - b * turn;
  v = a * turn + b * c;
}

}  // namespace GEO_ISA
}  // namespace geo
