// Items of K numbers each, from memory into lanes and back. The last, partial vector repeats the last item.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

template <int K, class V>
GEO_FN void load_items(const scalar_t<V>* from, int64_t at, int64_t end, V out[K]) {
  constexpr int W = Traits<V>::width;
  if (at + W <= end) {
    from += at * K;
    for (int k = 0; k < K; ++k)
      for (int i = 0; i < W; ++i) out[k][i] = from[i * K + k];
    return;
  }
  for (int i = 0; i < W; ++i) {
    const int64_t item = at + i < end ? at + i : end - 1;
    for (int k = 0; k < K; ++k) out[k][i] = from[item * K + k];
  }
}

template <int K, class V>
GEO_FN void store_items(scalar_t<V>* to, int64_t at, int64_t end, const V in[K]) {
  constexpr int W = Traits<V>::width;
  to += at * K;
  const int count = at + W <= end ? W : static_cast<int>(end - at);
  if (count == W) {
    for (int i = 0; i < W; ++i)
      for (int k = 0; k < K; ++k) to[i * K + k] = in[k][i];
    return;
  }
  for (int i = 0; i < count; ++i)
    for (int k = 0; k < K; ++k) to[i * K + k] = in[k][i];
}

}  // namespace GEO_ISA
}  // namespace geo
