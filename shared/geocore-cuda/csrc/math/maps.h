// The item-by-item maps of rotations, named once for the CPU loops, the CUDA kernels and the operators.
#pragma once

#include "math/geodesic.h"
#include "math/quaternion.h"

namespace geo {
inline namespace GEO_ISA {

// Maps of one, two and three arguments: name, numbers in an item of the result, numbers in an item of each argument. Nine numbers
// are a matrix, one is a scalar, others are a vector.
#define GEO_MAPS(ONE, TWO, THREE)       \
  ONE(so3_exp, 9, 3)                    \
  ONE(so3_log, 3, 9)                    \
  ONE(quat_to_matrix, 9, 4)             \
  ONE(matrix_to_quat, 4, 9)             \
  TWO(so3_exp_backward, 3, 3, 9)        \
  TWO(so3_log_backward, 9, 9, 3)        \
  TWO(quat_to_matrix_backward, 4, 4, 9) \
  TWO(matrix_to_quat_backward, 9, 9, 4) \
  TWO(quat_mul, 4, 4, 4)                \
  TWO(so3_geodesic, 1, 9, 9)            \
  THREE(so3_geodesic_backward, 9, 9, 9, 1)

// Map::run(in, out) with the arguments one behind the other.
#define GEO_MAP(name, OUT, A, B, C, ...)                                       \
  struct Map_##name {                                                          \
    static constexpr int out = OUT, first = A, second = B, third = C;          \
    template <class S>                                                         \
    GEO_FN static void run(const S* in, S* to) { name(__VA_ARGS__, to); }      \
  };
#define GEO_MAP_OF_ONE(name, OUT, A) GEO_MAP(name, OUT, A, 0, 0, in)
#define GEO_MAP_OF_TWO(name, OUT, A, B) GEO_MAP(name, OUT, A, B, 0, in, in + A)
#define GEO_MAP_OF_THREE(name, OUT, A, B, C) GEO_MAP(name, OUT, A, B, C, in, in + A, in + A + B)
GEO_MAPS(GEO_MAP_OF_ONE, GEO_MAP_OF_TWO, GEO_MAP_OF_THREE)

}  // namespace GEO_ISA
}  // namespace geo
