// The chunk step of a product of Householder factors with a state, forward and backward, for one head of one sequence. In a chunk
// with keys k, values v, step sizes b and decays D between its micro-steps,
//
//   A = tril_{-1}(diag(b) (k k^T * D)),   E = v - (start k) S,   (I + A) R = diag(b) E,
//   o = (start q) S + P R,  P = q k^T * D,   S <- whole S + (end k)^T R,
//
// where start, end and whole are the decays from the start of the chunk, to its end, and over all of it. Nothing but states leaves
// the scratch memory of the team.
//
// A team is one CPU core, which works in lanes, or the threads of a CUDA block. It has each(rows, columns, f), lower (the entries below
// the diagonal), rows, product, transpose and solve, with a barrier at the end of every one of them, and dot for one of its threads.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

// What an operator was called with. Arrays are contiguous: q (B, T, H, K), k (B, T n, H, K), v (B, T n, H, V), beta (B, T n, H),
// g (B, T, H), states (N, H, K, V), states before chunks (chunks, H, K, V) with the chunks of a sequence in a row.
template <class T>
struct Scan {
  const T *q, *k, *v, *beta, *g;  // g may be null
  const int64_t* offsets;         // null: B sequences of T tokens
  int64_t tokens, heads, sequences;
  int K, V, n, size;
  T scale;
};

template <class T>
struct ScanOutputs {
  const T* state;
  T *o, *last, *states;  // states may be null
};

template <class T>
struct ScanGradients {
  const T *states, *d_o, *d_last, *d_states;  // d_states may be null
  T *dq, *dk, *dv, *dbeta, *dg, *dstate;      // dg may be null
};

// A matrix with rows `row` apart, or its transpose.
template <class T>
struct Operand {
  const T* at;
  int64_t row, column;
};
template <class T>
GEO_FN Operand<T> plain(const T* at, int64_t stride) { return {at, stride, 1}; }
template <class T>
GEO_FN Operand<T> turned(const T* at, int64_t stride) { return {at, 1, stride}; }

GEO_FN int64_t padded(int64_t n, int width) { return (n + width - 1) / width * width; }

// Scratch of one team. Sizes are those of a full chunk.
template <class T>
struct ScanMemory {
  int64_t pk, pv, pm;  // padded rows of keys, values and micro-steps
  T *S, *k, *q, *E, *R, *kt, *gram, *A, *P, *pair, *start, *end, *b, *sk, *ek, *sq;
  T *D, *d_o, *Z, *U, *dgram, *dP, *dk, *dq, *F, *turn, *row;

  // With at = nullptr only the amount is found.
  GEO_FN int64_t lay(T* at, const Scan<T>& s, int width, bool backward) {
    pk = padded(s.K, width), pv = padded(s.V, width), pm = padded(int64_t(s.size) * s.n, width);
    const int64_t C = padded(s.size, width), rows_k = pk, rows_v = pv;
    int64_t used = 0;
    const auto take = [&](int64_t count) {
      T* here = at == nullptr ? nullptr : at + used;
      used += padded(count, width);
      return here;
    };
    S = take(rows_k * pv), k = take(pm * pk), q = take(C * pk), E = take(pm * pv), R = take(pm * pv), kt = take(rows_k * pm);
    gram = take(pm * pm), A = take(pm * pm), P = take(C * pm), pair = take(C * pm), start = take(C), end = take(C), b = take(pm);
    const bool gated = s.g != nullptr;
    sk = gated ? take(pm * pk) : k, ek = gated ? take(pm * pk) : k, sq = gated ? take(C * pk) : q;
    if (backward) {
      D = take(rows_k * pv), d_o = take(C * pv), Z = take(pm * pv), U = take(pm * pv), dgram = take(pm * pm), dP = take(C * pm);
      dk = take(pm * pk), dq = take(C * pk), F = take(pm * pk);
      turn = take(rows_v * (pm > pk ? pm : pk)), row = take(3 * C > rows_k ? 3 * C : rows_k);
    }
    return used;
  }
};

// One sequence and head: where its tokens and chunks are.
struct Chain {
  int64_t sequence, head, first, count, chunk, chunks;
};

template <class T>
GEO_FN Chain chain_of(const Scan<T>& s, int64_t index) {
  Chain c{index / s.heads, index % s.heads, 0, s.tokens, 0, (s.tokens + s.size - 1) / s.size};
  if (s.offsets == nullptr) {
    c.first = c.sequence * s.tokens, c.chunk = c.sequence * c.chunks;
    return c;
  }
  for (int64_t i = 0; i < c.sequence; ++i) c.chunk += (s.offsets[i + 1] - s.offsets[i] + s.size - 1) / s.size;
  c.first = s.offsets[c.sequence], c.count = s.offsets[c.sequence + 1] - c.first;
  c.chunks = (c.count + s.size - 1) / s.size;
  return c;
}

template <class T, class Team>
GEO_FN void read(const Team& team, const T* from, int64_t apart, T* to, int64_t stride, int rows, int columns, T factor = T(1)) {
  team.each(rows, columns, [=](int64_t i, int64_t j) { to[i * stride + j] = factor * from[i * apart + j]; });
}

template <class T, class Team>
GEO_FN void write(const Team& team, const T* from, int64_t stride, T* to, int64_t apart, int rows, int columns, T factor = T(1)) {
  team.each(rows, columns, [=](int64_t i, int64_t j) { to[i * apart + j] = factor * from[i * stride + j]; });
}

// Decays of a chunk of C tokens, all by products of factors e^g in [0, 1]: pair[i][j] from the token of micro-step j to token i.
template <class T, class Team>
GEO_FN void decays(const Team& team, const Scan<T>& s, const ScanMemory<T>& m, int64_t token, int64_t head, int C) {
  const T* g = s.g + token * s.heads + head;
  const int64_t heads = s.heads, pm = m.pm;
  const int n = s.n;
  T *pair = m.pair, *start = m.start, *end = m.end;
  team.each(C, 1, [=](int64_t i, int64_t) { end[i] = exponential(g[i * heads]); });  // for a moment: the factors
  team.each(1, 1, [=](int64_t, int64_t) {
    T all = 1;
    for (int i = 0; i < C; ++i) start[i] = all *= end[i];
  });
  team.each(1, C * n, [=](int64_t, int64_t j) {
    const int token = static_cast<int>(j) / n;
    T value = 1;
    for (int i = token; i < C; ++i) {
      if (i > token) value *= end[i];
      pair[i * pm + j] = value;
    }
  });
  team.each(C, 1, [=](int64_t i, int64_t) { end[i] = pair[(C - 1) * pm + i * n]; });
}

// Reads a chunk and computes everything up to R.
template <class T, class Team>
GEO_FN void prepare(const Team& team, const Scan<T>& s, const ScanMemory<T>& m, int64_t token, int64_t head, int C) {
  const int64_t pk = m.pk, pv = m.pv, pm = m.pm, micro = token * s.n;
  const int M = C * s.n, K = s.K, V = s.V, n = s.n;
  const bool gated = s.g != nullptr;
  read(team, s.q + (token * s.heads + head) * K, s.heads * K, m.q, pk, C, K, s.scale);
  read(team, s.k + (micro * s.heads + head) * K, s.heads * K, m.k, pk, M, K);
  read(team, s.v + (micro * s.heads + head) * V, s.heads * V, m.E, pv, M, V);
  read(team, s.beta + micro * s.heads + head, s.heads, m.b, 1, M, 1);
  if (gated) {
    decays(team, s, m, token, head, C);
    const T *k = m.k, *q = m.q, *start = m.start, *end = m.end;
    T *sk = m.sk, *ek = m.ek, *sq = m.sq;
    team.each(M, K, [=](int64_t i, int64_t j) { sk[i * pk + j] = start[i / n] * k[i * pk + j]; });
    team.each(M, K, [=](int64_t i, int64_t j) { ek[i * pk + j] = end[i / n] * k[i * pk + j]; });
    team.each(C, K, [=](int64_t i, int64_t j) { sq[i * pk + j] = start[i] * q[i * pk + j]; });
  }
  team.transpose(m.k, pk, M, K, m.kt, pm);
  team.product(M, M, K, plain(m.k, pk), m.kt, pm, m.gram, pm, false, false);
  team.product(C, M, K, plain(m.q, pk), m.kt, pm, m.P, pm, false, false);
  T *gram = m.gram, *A = m.A, *P = m.P;
  const T *b = m.b, *pair = m.pair;
  team.lower(M, [=](int64_t i, int64_t j) {  // j < i
    if (gated) gram[i * pm + j] *= pair[i / n * pm + j];
    A[i * pm + j] = b[i] * gram[i * pm + j];
  });
  team.each(C, M, [=](int64_t i, int64_t j) { P[i * pm + j] = j < (i + 1) * n ? (gated ? pair[i * pm + j] * P[i * pm + j] : P[i * pm + j]) : T(0); });
  team.product(M, V, K, plain(m.sk, pk), m.S, pv, m.E, pv, true, true);
  const T* E = m.E;
  T* R = m.R;
  team.each(M, V, [=](int64_t i, int64_t j) { R[i * pv + j] = b[i] * E[i * pv + j]; });
  team.solve(m.A, pm, m.R, pv, M, V, false);
}

template <class T, class Team>
GEO_FN void scan_forward(const Team& team, const Scan<T>& s, const ScanOutputs<T>& out, int64_t index, T* scratch) {
  ScanMemory<T> m;
  m.lay(scratch, s, Team::template width<T>(), false);
  const Chain c = chain_of(s, index);
  const int64_t whole_state = int64_t(s.K) * s.V;
  read(team, out.state + index * whole_state, int64_t(s.V), m.S, m.pv, s.K, s.V);
  for (int64_t i = 0; i < c.chunks; ++i) {
    const int64_t token = c.first + i * s.size, left = c.count - i * s.size;
    const int C = left < s.size ? static_cast<int>(left) : s.size, M = C * s.n;
    if (out.states != nullptr) write(team, m.S, m.pv, out.states + ((c.chunk + i) * s.heads + c.head) * whole_state, int64_t(s.V), s.K, s.V);
    prepare(team, s, m, token, c.head, C);
    team.product(C, s.V, s.K, plain(m.sq, m.pk), m.S, m.pv, m.E, m.pv, false, false);  // E is free from here on
    team.product(C, s.V, M, plain(m.P, m.pm), m.R, m.pv, m.E, m.pv, true, false);
    write(team, m.E, m.pv, out.o + (token * s.heads + c.head) * s.V, s.heads * s.V, C, s.V);
    if (s.g != nullptr) {
      T* S = m.S;
      const T* start = m.start;
      const int64_t pv = m.pv;
      team.each(s.K, s.V, [=](int64_t i, int64_t j) { S[i * pv + j] *= start[C - 1]; });
    }
    team.product(s.K, s.V, M, turned(m.ek, m.pk), m.R, m.pv, m.S, m.pv, true, false);
  }
  write(team, m.S, m.pv, out.last + index * whole_state, int64_t(s.V), s.K, s.V);
}

// The adjoint of every line above, chunks from the last to the first; D is the gradient of the state after a chunk.
template <class T, class Team>
GEO_FN void scan_backward(const Team& team, const Scan<T>& s, const ScanGradients<T>& out, int64_t index, T* scratch) {
  ScanMemory<T> m;
  m.lay(scratch, s, Team::template width<T>(), true);
  const Chain c = chain_of(s, index);
  const int64_t whole_state = int64_t(s.K) * s.V, pk = m.pk, pv = m.pv, pm = m.pm;
  const int K = s.K, V = s.V, n = s.n;
  const bool gated = s.g != nullptr;
  read(team, out.d_last + index * whole_state, int64_t(V), m.D, pv, K, V);
  for (int64_t at = c.chunks - 1; at >= 0; --at) {
    const int64_t token = c.first + at * s.size, left = c.count - at * s.size, micro = token * n;
    const int64_t state = ((c.chunk + at) * s.heads + c.head) * whole_state;
    const int C = left < s.size ? static_cast<int>(left) : s.size, M = C * n;
    read(team, out.states + state, int64_t(V), m.S, pv, K, V);
    prepare(team, s, m, token, c.head, C);
    read(team, out.d_o + (token * s.heads + c.head) * V, s.heads * V, m.d_o, pv, C, V);

    team.product(M, V, K, plain(m.ek, pk), m.D, pv, m.Z, pv, false, false);
    team.product(M, V, C, turned(m.P, pm), m.d_o, pv, m.Z, pv, true, false);
    team.solve(m.A, pm, m.Z, pv, M, V, true);
    const T *b = m.b, *Z = m.Z, *E = m.E, *gram = m.gram, *P = m.P, *pair = m.pair;
    T *U = m.U, *dgram = m.dgram, *dP = m.dP, *row = m.row;
    team.each(M, V, [=](int64_t i, int64_t j) { U[i * pv + j] = b[i] * Z[i * pv + j]; });  // dv, and the gradient of E
    write(team, m.U, pv, out.dv + (micro * s.heads + c.head) * V, s.heads * V, M, V);
    team.transpose(m.R, pv, M, V, m.turn, pm);
    team.product(M, M, V, plain(m.Z, pv), m.turn, pm, m.dgram, pm, false, true);
    team.product(C, M, V, plain(m.d_o, pv), m.turn, pm, m.dP, pm, false, false);
    T* dbeta = out.dbeta + micro * s.heads + c.head;
    const int64_t heads = s.heads;
    team.rows(M, [=](int64_t i) {
      dbeta[i * heads] = team.dot(Z + i * pv, E + i * pv, V) + team.dot(dgram + i * pm, gram + i * pm, i);
    });
    team.each(M, M, [=](int64_t i, int64_t j) { dgram[i * pm + j] = j < i ? b[i] * dgram[i * pm + j] : T(0); });
    if (gated) {
      T *sums = row, *columns = row + C;
      team.rows(C, [=](int64_t t) {  // what the decays to token t, and from it, contribute
        T to = team.dot(dP + t * pm, P + t * pm, (t + 1) * n), from = 0;
        for (int64_t i = t * n; i < (t + 1) * n; ++i) to += team.dot(dgram + i * pm, gram + i * pm, i);
        for (int64_t j = t * n; j < (t + 1) * n; ++j) {
          for (int64_t i = j + 1; i < M; ++i) from += dgram[i * pm + j] * gram[i * pm + j];
          for (int64_t i = t; i < C; ++i) from += dP[i * pm + j] * P[i * pm + j];
        }
        sums[t] = to, columns[t] = from;
      });
      team.lower(M, [=](int64_t i, int64_t j) { dgram[i * pm + j] *= pair[i / n * pm + j]; });
    }
    team.each(C, M, [=](int64_t i, int64_t j) { dP[i * pm + j] = j < (i + 1) * n ? (gated ? pair[i * pm + j] * dP[i * pm + j] : dP[i * pm + j]) : T(0); });

    team.product(M, K, M, plain(m.dgram, pm), m.k, pk, m.dk, pk, false, false);
    team.product(M, K, M, turned(m.dgram, pm), m.k, pk, m.dk, pk, true, false);
    team.product(M, K, C, turned(m.dP, pm), m.q, pk, m.dk, pk, true, false);
    team.product(C, K, M, plain(m.dP, pm), m.k, pk, m.dq, pk, false, false);
    T *dk = m.dk, *dq = m.dq, *F = m.F;
    const T *start = m.start, *end = m.end, *sk = m.sk, *ek = m.ek, *sq = m.sq, *S = m.S;
    T* D = m.D;
    team.transpose(m.S, pv, K, V, m.turn, pk);
    if (gated) {
      T *sums = row, *ends = row + 2 * C;
      const T* columns = row + C;
      team.product(M, K, V, plain(m.U, pv), m.turn, pk, m.F, pk, false, true);
      team.rows(C, [=](int64_t t) {
        T total = sums[t] - columns[t];
        for (int64_t i = t * n; i < (t + 1) * n; ++i) {
          total += team.dot(sk + i * pk, F + i * pk, K);
          for (int j = 0; j < K; ++j) dk[i * pk + j] += start[t] * F[i * pk + j];
        }
        sums[t] = total;
      });
      team.product(C, K, V, plain(m.d_o, pv), m.turn, pk, m.F, pk, false, false);
      team.rows(C, [=](int64_t t) {
        sums[t] += team.dot(sq + t * pk, F + t * pk, K);
        for (int j = 0; j < K; ++j) dq[t * pk + j] += start[t] * F[t * pk + j];
      });
      team.transpose(m.D, pv, K, V, m.turn, pk);
      team.product(M, K, V, plain(m.R, pv), m.turn, pk, m.F, pk, false, false);
      team.rows(C, [=](int64_t t) {
        T total = 0;
        for (int64_t i = t * n; i < (t + 1) * n; ++i) {
          total += team.dot(ek + i * pk, F + i * pk, K);
          for (int j = 0; j < K; ++j) dk[i * pk + j] += end[t] * F[i * pk + j];
        }
        ends[t] = total;
      });
      T* dg = out.dg + token * heads + c.head;
      team.each(1, 1, [=](int64_t, int64_t) {
        T kept = 0, total = 0;
        for (int i = 0; i < K; ++i) kept += team.dot(S + i * pv, D + i * pv, V);
        for (int t = 0; t < C; ++t) total += ends[t];
        total += start[C - 1] * kept;
        for (int t = C - 1; t >= 0; --t) {
          total += sums[t] - ends[t];
          dg[t * heads] = total;
        }
      });
      team.each(K, V, [=](int64_t i, int64_t j) { D[i * pv + j] *= start[C - 1]; });
    } else {
      team.product(M, K, V, plain(m.U, pv), m.turn, pk, m.dk, pk, true, true);
      team.product(C, K, V, plain(m.d_o, pv), m.turn, pk, m.dq, pk, true, false);
      team.transpose(m.D, pv, K, V, m.turn, pk);
      team.product(M, K, V, plain(m.R, pv), m.turn, pk, m.dk, pk, true, false);
    }
    write(team, m.dk, pk, out.dk + (micro * heads + c.head) * K, heads * K, M, K);
    write(team, m.dq, pk, out.dq + (token * heads + c.head) * K, heads * K, C, K, s.scale);
    team.product(K, V, C, turned(m.sq, pk), m.d_o, pv, m.D, pv, true, false);
    team.product(K, V, M, turned(m.sk, pk), m.U, pv, m.D, pv, true, true);
    if (out.d_states != nullptr) {
      const T* sent = out.d_states + state;
      team.each(K, V, [=](int64_t i, int64_t j) { D[i * pv + j] += sent[i * V + j]; });
    }
  }
  write(team, m.D, pv, out.dstate + index * whole_state, int64_t(V), K, V);
}

}  // namespace GEO_ISA
}  // namespace geo
