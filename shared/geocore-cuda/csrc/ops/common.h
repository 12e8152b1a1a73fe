// The torch side of the CPU kernels: tensors of the LibTorch stable ABI, and the choice of an instruction set.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include "ops/shapes.h"

#include <tuple>
#include <vector>

// Declares a function of csrc/cpu/ in every instruction set it is compiled for.
#if defined(__x86_64__)
#define GEO_DECLARE(signature) \
  namespace geo {              \
  namespace base { signature; } \
  namespace v3 { signature; }   \
  namespace v4 { signature; }   \
  }
#define GEO_BEST(name) \
  (geo::instruction_set() == 4 ? &geo::v4::name : geo::instruction_set() == 3 ? &geo::v3::name : &geo::base::name)
#else
#define GEO_DECLARE(signature) \
  namespace geo {              \
  namespace base { signature; } \
  }
#define GEO_BEST(name) (&geo::base::name)
#endif

namespace geo {

using torch::stable::Tensor;

// 4 with AVX-512, 3 with AVX2 and FMA, otherwise 2; GEOCORE_ISA=base|v3|v4 lowers it (for tests).
int instruction_set();

// Items per task so that one task is some ten microseconds of work.
inline int64_t grain(int64_t nanoseconds_per_item) {
  const int64_t items = 20000 / (nanoseconds_per_item < 1 ? 1 : nanoseconds_per_item);
  return items < 64 ? 64 : (items + 63) / 64 * 64;  // whole vectors: no lane is wasted between tasks
}

}  // namespace geo
