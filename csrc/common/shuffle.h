// Vectors whose lanes are chosen from those of two others, and the sum of all lanes.
#pragma once

#include <utility>

#include "simd.h"

namespace lightsr {

// Lane i of the result is lane Order::at(i, size) of a and then b, counted through.
template <class Order, class E, int... i>
[[gnu::always_inline]] inline Vec<E> shuffled(Vec<E> a, Vec<E> b, std::integer_sequence<int, i...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return {__builtin_shufflevector(a.v, b.v, Order::at(i, sizeof...(i))...)};
#else
  return {__builtin_shuffle(a.v, b.v, typename Vec<E>::Bits{Order::at(i, sizeof...(i))...})};
#endif
}
template <class Order, class E>
[[gnu::always_inline]] inline Vec<E> shuffled(Vec<E> a, Vec<E> b) {
  return shuffled<Order>(a, b, std::make_integer_sequence<int, Vec<E>::size>{});
}

// Lanes of a and b by turns, of their first halves or of their last.
template <bool last>
struct ByTurns {
  static constexpr int at(int i, int size) { return (last ? size / 2 : 0) + i / 2 + i % 2 * size; }
};
// Lanes 0, 2, 4 and so on of a and then of b, or with `odd` lanes 1, 3, 5 and so on.
template <bool odd>
struct EveryOther {
  static constexpr int at(int i, int) { return 2 * i + odd; }
};
// The lanes of a but its first, and lane k of b after them.
template <int k>
struct OneOn {
  static constexpr int at(int i, int size) { return i + 1 < size ? i + 1 : size + k; }
};
// The last lane of a, and the lanes of b but its last.
struct OneBack {
  static constexpr int at(int i, int size) { return size - 1 + i; }
};

// Every lane of a at the place of the one `step` away: 1 for neighbours, 2 for neighbouring pairs, and so on.
template <int step>
struct Across {
  static constexpr int at(int i, int) { return i ^ step; }
};

// All lanes added, neighbours first: the same order on every call.
template <int step = 1, class T>
[[gnu::always_inline]] inline T sum(Vec<T> a) {
  if constexpr (step < Vec<T>::size)
    return sum<2 * step>(a + shuffled<Across<step>>(a, a));
  else
    return a.v[0];
}

// Numbers of r vectors by turns, a0 b0 c0 a1 b1 c1 and so on, fill r vectors; this is one step to vector k of these.
// The lanes of b, the vector `channel` of the r, come to its places, and elsewhere stay those of a, where earlier steps
// have brought them. The first step, with channel 1, also brings those of a, vector 0, to theirs.
template <int r, int k, int channel>
struct TakingTurns {
  static constexpr int at(int i, int size) {
    const int place = k * size + i;
    return place % r == channel ? size + place / r : channel == 1 ? place / r : i;
  }
};

// Vector k of the r that hold the numbers of r vectors by turns.
template <int k, int channel = 1, class E, int r>
[[gnu::always_inline]] inline Vec<E> by_turns(const Vec<E> (&v)[r], Vec<E> before) {
  const Vec<E> found = shuffled<TakingTurns<r, k, channel>>(before, v[channel]);
  if constexpr (channel + 1 < r) {
    return by_turns<k, channel + 1>(v, found);
  } else {
    return found;
  }
}

// Calls each(k, vector) for these r vectors.
template <class E, int r, int... k, class Each>
[[gnu::always_inline]] inline void each_by_turns(const Vec<E> (&v)[r], std::integer_sequence<int, k...>,
                                                 const Each& each) {
  (each(k, by_turns<k>(v, v[0])), ...);
}

// A square of numbers, number i of vector j and number j of vector i having changed places: as log2(size) rounds, each
// of which brings the vectors of both halves together by turns.
template <class S>
void transpose(Vec<S> (&v)[Vec<S>::size]) {
  constexpr int size = Vec<S>::size;
  Vec<S> next[size];
#pragma GCC unroll 4
  for (int round = 1; round < size; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < size / 2; ++i) {
      next[2 * i] = shuffled<ByTurns<false>>(v[i], v[i + size / 2]);
      next[2 * i + 1] = shuffled<ByTurns<true>>(v[i], v[i + size / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) v[i] = next[i];
  }
}

}  // namespace lightsr
