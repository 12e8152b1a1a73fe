#include "cpu/batch.h"
#include "math/maps.h"

namespace geo {
inline namespace GEO_ISA {

#define GEO_UNARY_LOOPS(name, formula, IN, OUT)                                                                      \
  void name##_f32(const float* x, float* y, int64_t begin, int64_t end) {                                            \
    map_items<IN, OUT>(x, y, begin, end, [](const FloatLanes* a, FloatLanes* to) { Map_##name::run(a, to); });       \
  }                                                                                                                  \
  void name##_f64(const double* x, double* y, int64_t begin, int64_t end) {                                          \
    map_items<IN, OUT>(x, y, begin, end, [](const DoubleLanes* a, DoubleLanes* to) { Map_##name::run(a, to); });     \
  }
#define GEO_BINARY_LOOPS(name, formula, A, B, OUT)                                                                   \
  void name##_f32(const float* x, const float* y, float* z, int64_t begin, int64_t end) {                            \
    map_pairs<A, B, OUT>(x, y, z, begin, end,                                                                        \
                         [](const FloatLanes* a, const FloatLanes* b, FloatLanes* to) { Map_##name::run(a, b, to); }); \
  }                                                                                                                  \
  void name##_f64(const double* x, const double* y, double* z, int64_t begin, int64_t end) {                         \
    map_pairs<A, B, OUT>(x, y, z, begin, end,                                                                        \
                         [](const DoubleLanes* a, const DoubleLanes* b, DoubleLanes* to) { Map_##name::run(a, b, to); }); \
  }

GEO_UNARY_MAPS(GEO_UNARY_LOOPS)
GEO_BINARY_MAPS(GEO_BINARY_LOOPS)

}  // namespace GEO_ISA
}  // namespace geo
