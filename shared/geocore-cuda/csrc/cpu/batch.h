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

// formula(in[IN], out[OUT]) for the items [begin, end).
template <int IN, int OUT, class T, class F>
GEO_FN void map_items(const T* from, T* to, int64_t begin, int64_t end, F formula) {
  using V = typename LanesOf<T>::type;
  for (int64_t at = begin; at < end; at += Traits<V>::width) {
    V in[IN], out[OUT];
    load_items<IN>(from, at, end, in);
    formula(in, out);
    store_items<OUT, V>(to, at, end, out);
  }
}

// formula(a[A], b[B], out[OUT]) likewise.
template <int A, int B, int OUT, class T, class F>
GEO_FN void map_pairs(const T* a, const T* b, T* to, int64_t begin, int64_t end, F formula) {
  using V = typename LanesOf<T>::type;
  for (int64_t at = begin; at < end; at += Traits<V>::width) {
    V left[A], right[B], out[OUT];
    load_items<A>(a, at, end, left);
    load_items<B>(b, at, end, right);
    formula(left, right, out);
    store_items<OUT, V>(to, at, end, out);
  }
}

}  // namespace GEO_ISA
}  // namespace geo
