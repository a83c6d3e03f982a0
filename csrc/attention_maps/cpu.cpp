// attention_maps on the CPU: runs of neighbouring sets, whose buffers stay in the L2 cache.
//
// A score is a query times a key, both linear in their pixels, so queries' and keys' weights become one matrix between
// the two pixels. Bound: C (C + window^2) multiply-adds and window^2 exponentials a pixel, beside x, C numbers, and the
// maps, window^2 numbers. At C = 48 and windows of 8 in float32 that is 5376 multiply-adds, 64 exponentials of some 15
// instructions a vector, and 448 bytes. Of a set's two products (common/product.h) P = n weight^T has channels in its
// vectors and the scores, P n^T, have keys: n is turned over in between. Scores are a few rows in the L1 cache when
// their softmax is taken and written.
#include "../common/by_type.h"
#include "../common/parallel.h"
#include "../window_attention/cpu_joint.h"
#include "../window_attention/cpu_sets.h"
#include "../window_attention/cpu_turn.h"
#include "arguments.h"
#include "cpu_softmax.h"

namespace lightsr {
namespace {

template <class T>
class Forward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  static constexpr int size = Vec<S>::size;
  static constexpr int64_t each = Numbers<T>::pairs ? 2 : 1;

 public:
  explicit Forward(const AttentionMaps& call)
      : call_(call),
        tokens_(!call.channels_last, call.c, call.h * call.w, call.eps, call.norm_weight, call.norm_bias),
        weight_(joint_of(static_cast<const T*>(call.query_key_weight) + call.c * call.c, 1, call.c,
                         static_cast<const T*>(call.query_key_weight), call.c, S(1) / std::sqrt(S(call.c)))
                    .data(),
                call.c, call.c, call.c),
        slot_(round_up(call.window * call.window, size)),
        sets_(call.grid, call.window, call.h, call.w,
              Sets::fit(call.grid, !call.channels_last, slot_ * tokens_.padded() * int64_t(sizeof(F))),
              call.channels_last ? 1 : size),
        position_(sets_.tokens * slot_) {
    const T* table = static_cast<const T*>(call.position);
    const int64_t window = call.window, side = 2 * window - 1;
    // Keys that are not there get a share of exp(-infinity).
    std::fill_n(position_.data(), sets_.tokens * slot_, -std::numeric_limits<S>::infinity());
    for (int64_t query = 0; query < sets_.tokens; ++query) {
      for (int64_t key = 0; key < sets_.tokens; ++key) {
        const int64_t below = query / window - key / window, right = query % window - key % window;
        const T entry = table[(below + window - 1) * side + right + window - 1];
        position_.data()[query * slot_ + key] = wide_number<S>(entry);
      }
    }
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
    S* work;
    F *rows, *queries;  // [token][channel]; of a set
    E* keys;            // of a set, [channel][token], channels by pairs where they are
                        // multiplied so
    S* scores;          // of some queries
    int64_t bytes;

    Buffers(const Forward& all, char* from)
        : arena(from),
          work(arena.take<S>(all.tokens_.work())),
          rows(arena.take<F>(all.sets_.run * all.slot_ * all.tokens_.padded() + product_rows * all.tokens_.padded())),
          queries(arena.take<F>((all.slot_ + product_rows) * all.tokens_.padded())),
          keys(arena.take<E>(all.tokens_.padded() * all.slot_)),
          scores(arena.take<S>(size * all.slot_)),
          bytes(arena.used(from)) {}
  };

  const T* picture_of(const Sets::Run& run) const {
    return static_cast<const T*>(call_.x) + run.picture * tokens_.picture();
  }

  void run(const Sets::Run& run, const std::optional<Sets::Run>& next, const Buffers& at) const {
    const int64_t step = tokens_.padded(), tokens = sets_.tokens;
    const T* x = picture_of(run);
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      tokens_.normed(x + tokens_.first(pixel), count, at.work, [&](int64_t p) { return at.rows + place(p) * step; });
    });
    for (int64_t s = 0; s < run.count; ++s) {
      F* rows = at.rows + s * slot_ * step;
      std::fill_n(rows + tokens * step, (slot_ - tokens) * step, F{});
      T* maps = static_cast<T*>(call_.maps) + (run.set + s) * tokens * tokens;
      // Memory for the set's maps comes into the cache before they are computed, and of the next run's pixels a share.
      Ahead ahead;
      ahead.add(maps, 0, tokens * tokens * int64_t(sizeof(T)), 1);
      if (next) tokens_.ask_for(picture_of(*next), sets_, *next, ahead, s, run.count);
      weight_.multiply_to({rows, step}, tokens, step, Rows<F>{at.queries, step}, &ahead);
      turn_rows<T>(rows, slot_, step, at.keys);
      for (int64_t query = 0; query < tokens; query += size) {
        const int many = static_cast<int>(std::min<int64_t>(size, tokens - query));
        const E* queries = reinterpret_cast<const E*>(at.queries + query * step);
        const Product<E> product{queries, step / each, 1, at.keys, slot_, depth_of<T>(call_.c)};
        multiply(
            product, many, slot_,
            [to = at.scores, slot = slot_, position = position_.data() + query * slot_](Vec<S> sums, int64_t row,
                                                                                        int64_t column, auto...) {
              (sums + Vec<S>::load(position + row * slot + column)).store(to + row * slot + column);
            },
            &ahead);
        softmax<S>({at.scores, slot_}, many, tokens, maps + query * tokens);
      }
    }
  }

  const AttentionMaps& call_;
  Tokens<T> tokens_;
  Columns<T> weight_;
  int64_t slot_;  // rows of a set, and columns of its scores
  Sets sets_;
  Aligned<S> position_;  // [query][key]
};

}  // namespace

void attention_maps_cpu(const AttentionMaps& call) {
  by_type(call.type, [&]<class T>() { Forward<T>(call).run(); });
}

}  // namespace lightsr
