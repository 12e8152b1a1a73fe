#include "cpu/batch.h"
#include "math/maps.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

template <class Map, class T>
void over_items(const T* const* from, T* to, int64_t begin, int64_t end) {
  using V = typename LanesOf<T>::type;
  for (int64_t at = begin; at < end; at += Traits<V>::width) {
    V in[Map::first + Map::second + Map::third], out[Map::out];
    load_items<Map::first>(from[0], at, end, in);
    if constexpr (Map::second > 0) load_items<Map::second>(from[1], at, end, in + Map::first);
    if constexpr (Map::third > 0) load_items<Map::third>(from[2], at, end, in + Map::first + Map::second);
    Map::run(in, out);
    store_items<Map::out, V>(to, at, end, out);
  }
}

}  // namespace

#define GEO_LOOPS(name, ...)                                                                                                     \
  void name##_f32(const float* const* x, float* y, int64_t begin, int64_t end) { over_items<Map_##name>(x, y, begin, end); }     \
  void name##_f64(const double* const* x, double* y, int64_t begin, int64_t end) { over_items<Map_##name>(x, y, begin, end); }
GEO_MAPS(GEO_LOOPS, GEO_LOOPS, GEO_LOOPS)

}  // namespace GEO_ISA
}  // namespace geo
