// Planar rotations of coordinate pairs; the reference is geocore.blocks.rope_apply.
#pragma once

#include "math/rows.h"

namespace geo {
inline namespace GEO_ISA {

// One pair; `turn` is the sine, negated for the inverse rotation.
template <class T>
GEO_FN void rotate_pair(T a, T b, T c, T turn, T& u, T& v) {
  u = a * c - b * turn;
  v = a * turn + b * c;
}

}  // namespace GEO_ISA
}  // namespace geo
