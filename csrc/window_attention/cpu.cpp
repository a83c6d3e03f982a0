// window_attention on the CPU: runs of neighbouring sets, whose buffers stay in the L2 cache.
//
// The maps mix pixels and the two weights mix channels, so their order does not matter and the weights become one.
// Bound: C (C + window^2) multiply-adds a pixel, beside x and out, 2 C numbers, and the maps, window^2 numbers. At C =
// 48 and windows of 8 in float32 that is 5376 multiply-adds and 640 bytes. A set's products, U = n weight^T and maps U
// (common/product.h), have channels in their vectors; U and the maps of a set, 28 KB, stay in the L1 cache. Maps are
// read where they lie, unless they have to be widened or do not fill tiles.
#include "../common/by_type.h"
#include "../common/parallel.h"
#include "arguments.h"
#include "cpu_joint.h"
#include "cpu_sets.h"
#include "cpu_tokens.h"

namespace lightsr {
namespace {

template <class T>
class Forward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  static constexpr bool pairs = Numbers<T>::pairs;

 public:
  explicit Forward(const WindowAttention& call)
      : call_(call),
        planes_(!call.channels_last),
        tokens_(planes_, call.c, call.h * call.w, call.eps, call.norm_weight, call.norm_bias),
        weight_(joint_of(static_cast<const T*>(call.out_weight), call.c, 1, static_cast<const T*>(call.value_weight),
                         call.c, S(1))
                    .data(),
                call.c, call.c, call.c),
        slot_(round_up(call.window * call.window, product_rows)),
        sets_(call.grid, call.window, call.h, call.w,
              Sets::fit(call.grid, planes_, slot_ * tokens_.padded() * int64_t(sizeof(S))), planes_ ? Vec<S>::size : 1),
        depth_(depth_of<T>(sets_.tokens)),
        in_place_(std::is_same_v<T, F> && sets_.tokens % (product_rows / 2) == 0 && (!pairs || sets_.tokens % 2 == 0)) {
  }

  void run() const {
    const int64_t bytes = Buffers(*this, nullptr).bytes;
    run_tasks(sets_.tasks(call_.n), [&](int64_t task) {
      run(sets_.at(task), sets_.after(task, call_.n), Buffers(*this, scratch<char>(bytes)));
    });
  }

 private:
  struct Buffers {
    Arena arena;
    S *work, *rows;  // rows of normalised pixels, then those of the results
    F* values;       // of a set, [token][channel]
    Pair* mixed;     // two tokens each
    F* maps;
    int64_t bytes;

    Buffers(const Forward& all, char* from)
        : arena(from),
          work(arena.take<S>(all.tokens_.work())),
          rows(arena.take<S>(all.sets_.run * all.slot_ * all.tokens_.padded())),
          values(arena.take<F>((all.slot_ + 1) * all.tokens_.padded())),
          mixed(arena.take<Pair>(pairs ? all.depth_ * all.tokens_.padded() : 0)),
          maps(arena.take<F>(all.in_place_ ? 0 : all.slot_ * (all.sets_.tokens + 1))),
          bytes(arena.used(from)) {}
  };

  const T* picture_of(const Sets::Run& run) const {
    return static_cast<const T*>(call_.x) + run.picture * tokens_.picture();
  }

  void run(const Sets::Run& run, const std::optional<Sets::Run>& next, const Buffers& at) const {
    const int64_t step = tokens_.padded();
    const T* x = picture_of(run);
    T* out = static_cast<T*>(call_.out) + run.picture * tokens_.picture();
    const bool past = past_cache<T>(call_.n * tokens_.picture(), planes_ ? call_.h * call_.w : call_.c);
    F* rows = reinterpret_cast<F*>(at.rows);
    // A number takes sizeof(S) bytes where results lie, so a set's normalised rows end before the next one's.
    const int64_t slot = slot_ * (sizeof(S) / sizeof(F));
    sets_.stretches(run, slot, [&](int64_t pixel, int64_t count, const auto& place) {
      tokens_.normed(x + tokens_.first(pixel), count, at.work, [&](int64_t p) { return rows + place(p) * step; });
    });
    const int64_t maps_bytes = sets_.tokens * sets_.tokens * int64_t(sizeof(T));
    for (int64_t s = 0; s < run.count; ++s) {
      Ahead ahead;  // the next set's maps come from memory meanwhile, and of the next run's pixels a share
      if (s + 1 < run.count || next) {
        ahead.add(maps_of(s + 1 < run.count ? run.set + s + 1 : next->set), 0, maps_bytes, 1);
      }
      if (next) tokens_.ask_for(picture_of(*next), sets_, *next, ahead, s, run.count);
      weight_.multiply_to({rows + s * slot * step, step}, sets_.tokens, step, Rows<F>{at.values, step}, &ahead);
      const Product<E> product = mix(run.set + s, at);
      if (planes_) {
        multiply_to(product, sets_.tokens, step, at.rows + s * slot_ * step, step, &ahead);
      } else {
        const int64_t first = tokens_.first(run.pixel + s * sets_.step());
        multiply(
            product, sets_.tokens, call_.c,
            [past, x = x + first, out = out + first, c = call_.c, offsets = sets_.offsets.data()](
                Vec<S> sums, int64_t row, int64_t column, auto... part) {
              const int64_t place = offsets[row] * c + column;
              put(sums + Vec<S>::load(x + place, part...), out + place, past, part...);
            },
            &ahead);
      }
    }
    if (!planes_) return;
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      tokens_.add(x + pixel, out + pixel, count, past, [&](int64_t p) { return at.rows + place(p) * step; });
    });
  }

  const T* maps_of(int64_t set) const { return static_cast<const T*>(call_.maps) + set * sets_.tokens * sets_.tokens; }

  // A set's maps times its values.
  Product<E> mix(int64_t set, const Buffers& at) const {
    const int64_t tokens = sets_.tokens, step = tokens_.padded();
    const T* maps = maps_of(set);
    const E *from, *columns;
    int64_t row;
    if constexpr (std::is_same_v<T, F>) {
      from = reinterpret_cast<const E*>(maps);
      row = tokens / (pairs ? 2 : 1);
    }
    if (!in_place_) {
      const int64_t wide = pairs ? 2 * depth_ : tokens;
      for (int64_t r = 0; r < tokens; ++r) {
        if constexpr (std::is_same_v<T, F>) {
          std::copy_n(maps + r * tokens, tokens, at.maps + r * wide);
        } else {
          attention::widen(at.maps + r * wide, maps + r * tokens, tokens);
        }
        if (wide > tokens) at.maps[r * wide + tokens] = F{};
      }
      from = reinterpret_cast<const E*>(at.maps);
      row = depth_;
    }
    if constexpr (pairs) {
      interleave({at.values, step}, tokens, step, {at.mixed, step});
      columns = at.mixed;
    } else {
      columns = at.values;
    }
    return {from, row, 1, columns, step, depth_};
  }

  const WindowAttention& call_;
  bool planes_;
  Tokens<T> tokens_;
  Columns<T> weight_;
  int64_t slot_;  // rows of a set
  Sets sets_;
  int64_t depth_;  // elements along a map's row
  bool in_place_;
};

}  // namespace

void window_attention_cpu(const WindowAttention& call) {
  by_type(call.type, [&]<class T>() { Forward<T>(call).run(); });
}

}  // namespace lightsr
