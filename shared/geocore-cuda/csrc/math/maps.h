// The item-by-item maps of rotations, named once for the CPU loops and the CUDA kernels.
#pragma once

#include "math/quaternion.h"

namespace geo {
inline namespace GEO_ISA {

// name(formula, numbers in, numbers out)
#define GEO_UNARY_MAPS(X)                \
  X(so3_exp, so3_exp, 3, 9)              \
  X(so3_log, so3_log, 9, 3)              \
  X(quat_to_matrix, quat_to_matrix, 4, 9) \
  X(matrix_to_quat, matrix_to_quat, 9, 4)
// name(formula, numbers in, numbers in, numbers out)
#define GEO_BINARY_MAPS(X)                                  \
  X(so3_exp_backward, so3_exp_backward, 3, 9, 3)            \
  X(so3_log_backward, so3_log_backward, 9, 3, 9)            \
  X(quat_to_matrix_backward, quat_to_matrix_backward, 4, 9, 4) \
  X(matrix_to_quat_backward, matrix_to_quat_backward, 9, 4, 9) \
  X(quat_mul, quat_mul, 4, 4, 4)

#define GEO_UNARY_MAP(name, formula, IN, OUT)                            \
  struct Map_##name {                                                    \
    static constexpr int in = IN, out = OUT;                             \
    template <class S>                                                   \
    GEO_FN static void run(const S* a, S* to) { formula(a, to); }        \
  };
#define GEO_BINARY_MAP(name, formula, A, B, OUT)                              \
  struct Map_##name {                                                         \
    static constexpr int left = A, right = B, out = OUT;                      \
    template <class S>                                                        \
    GEO_FN static void run(const S* a, const S* b, S* to) { formula(a, b, to); } \
  };
GEO_UNARY_MAPS(GEO_UNARY_MAP)
GEO_BINARY_MAPS(GEO_BINARY_MAP)

}  // namespace GEO_ISA
}  // namespace geo
