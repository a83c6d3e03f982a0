// gated_pointwise on the CPU: its passes over pixels, in blocks whose buffers stay in the L2 cache.
//
// Bound of a pixel at C = 52, E = 156, P = 16: 36 thousand multiply-adds, against 2 C numbers through memory: it is
// the products' speed that counts (common/product.h). A tensor of E channels exists only for a block.
#include "../common/block_tasks.h"
#include "../common/channel_norm.h"
#include "../common/simd_math.h"
#include "arguments.h"
#include "cpu_coarse.h"
#include "cpu_enlarge.h"

namespace lightsr {
namespace {

// A 1x1 convolution.
template <class T>
struct Layer {
  using S = typename Numbers<T>::Wide;
  int64_t outs, ins;
  Matrix<T> weight;
  PerChannel<S> bias;

  Layer(bool planes, const void* weight, const void* bias, int64_t outs, int64_t ins)
      : outs(outs),
        ins(ins),
        weight(planes, static_cast<const T*>(weight), outs, ins, ins, 1),
        bias(planes, static_cast<const T*>(bias), outs) {}

  // Calls each(result, row, column, part...) with vectors of the result.
  template <class Each>
  void operator()(const Block& block, const Operand<T>& pixels, const Each& each) const {
    const auto offset = bias.from_channel(0);
    weight.multiply(block, pixels, outs, ins, [&](Vec<S> value, int64_t row, int64_t column, auto... part) {
      each(value + offset.at(row, column), row, column, part...);
    });
  }
};

template <class T>
ChannelNorm<T> norm_of(const GatedPointwise& call) {
  return {!call.channels_last, call.c, call.eps, call.norm_weight, call.norm_bias};
}

template <class T>
void run(const GatedPointwiseEntry& pass) {
  const GatedPointwise& call = pass.call;
  const bool planes = !call.channels_last;
  const int64_t pixels = call.h * call.w;
  const ChannelNorm<T> norm = norm_of<T>(call);
  const Layer<T> entry(planes, pass.weight, pass.bias, call.gate, call.c);
  const Blocks blocks(planes, call.n, pixels, call.c + call.gate);
  const auto buffers = [&](char* from) {
    Arena arena(from);
    const Operand<T> n(arena, planes, call.c, blocks.block);
    return std::pair(n, arena.used(from));
  };
  const int64_t bytes = buffers(nullptr).second;
  run_tasks(blocks.count(), [&](int64_t task) {
    const Operand<T> n = buffers(scratch<char>(bytes)).first;
    const Block block = blocks.at(task);
    norm(block, block.of<T>(call.x, call.c, pixels), n);
    const Rows<T> to = block.of<T>(pass.entered, call.gate, pixels);
    entry(block, n,
          [&](auto value, int64_t row, int64_t column, auto... part) { value.store(to.at(row, column), part...); });
  });
}

template <class T>
class Exit {
  using S = typename Numbers<T>::Wide;
  using V = Vec<S>;

 public:
  explicit Exit(const GatedPointwiseExit& pass)
      : pass_(pass),
        call_(pass.call),
        planes_(!call_.channels_last),
        norm_(norm_of<T>(call_)),
        enlarge_(pass.coarse_h, pass.coarse_w, call_.gate, call_.h, call_.w),
        a_(planes_, pass.weight_a, pass.bias_a, call_.expanded, call_.c),
        b_(planes_, pass.weight_b, pass.bias_b, call_.expanded, call_.c),
        c_(planes_, pass.weight_c, pass.bias_c, call_.expanded, call_.c),
        skip_(planes_, pass.skip_weight, pass.skip_bias, call_.gate, call_.gate),
        exit_(planes_, pass.exit_weight, pass.exit_bias, call_.expanded, call_.gate),
        out_(planes_, pass.out_weight, pass.out_bias, call_.c, call_.expanded) {}

  void run() const {
    const Blocks blocks(planes_, call_.n, call_.h * call_.w, call_.c + 3 * call_.expanded + 3 * call_.gate);
    const int64_t bytes = Buffers(*this, blocks.block, nullptr).bytes;
    run_tasks(blocks.count(),
              [&](int64_t task) { block(blocks.at(task), Buffers(*this, blocks.block, scratch<char>(bytes))); });
  }

 private:
  struct Buffers {
    Arena arena;
    Operand<T> n, entered, middle, star;
    Rows<S> enlarged, product, path;
    S* row;
    int64_t bytes;

    Buffers(const Exit& all, int64_t block, char* from)
        : arena(from),
          n(arena, all.planes_, all.call_.c, block),
          entered(arena, all.planes_, all.call_.gate, block),
          middle(arena, all.planes_, all.call_.gate, block),
          star(arena, all.planes_, all.call_.expanded, block),
          enlarged(buffer<S>(arena, all.planes_, all.call_.gate, block)),
          product(buffer<S>(arena, all.planes_, all.call_.expanded, block)),
          path(buffer<S>(arena, all.planes_, all.call_.expanded, block)),
          row(arena.take<S>(all.enlarge_.scratch())),
          bytes(arena.used(from)) {}
  };

  void block(const Block& block, const Buffers& at) const {
    const int64_t pixels = call_.h * call_.w;
    norm_(block, block.of<T>(call_.x, call_.c, pixels), at.n);
    enlarge_(block, static_cast<const S*>(pass_.coarse), at.enlarged, at.row);
    const Rows<const T> entered = block.of<T>(pass_.entered, call_.gate, pixels);
    block.every<S>(call_.gate, [&](int64_t row, int64_t column, auto... part) {
      V::load(entered.at(row, column), part...).store(at.entered.numbers.at(row, column), part...);
    });
    skip_(block, at.entered, [&](V value, int64_t row, int64_t column, auto... part) {
      value = value + V::load(at.enlarged.at(row, column), part...);
      value.store(at.middle.numbers.at(row, column), part...);
    });
    const V zero = V::fill(0), six = V::fill(6);
    a_(block, at.n, [&](V value, int64_t row, int64_t column, auto... part) {
      min(six, max(zero, value)).store(at.product.at(row, column), part...);
    });
    b_(block, at.n, [&](V value, int64_t row, int64_t column, auto... part) {
      (value * V::load(at.product.at(row, column), part...)).store(at.product.at(row, column), part...);
    });
    c_(block, at.n,
       [&](V value, int64_t row, int64_t column, auto... part) { value.store(at.path.at(row, column), part...); });
    exit_(block, at.middle, [&](V value, int64_t row, int64_t column, auto... part) {
      const V path = V::load(at.path.at(row, column), part...);
      const V star = fma(path, sigmoid(value), V::load(at.product.at(row, column), part...));
      star.store(at.star.numbers.at(row, column), part...);
    });
    const Rows<T> out = block.of<T>(pass_.out, call_.c, pixels);
    out_(block, at.star,
         [&](V value, int64_t row, int64_t column, auto... part) { value.store(out.at(row, column), part...); });
  }

  const GatedPointwiseExit& pass_;
  const GatedPointwise& call_;
  bool planes_;
  ChannelNorm<T> norm_;
  Enlarge<S> enlarge_;
  Layer<T> a_, b_, c_, skip_, exit_, out_;
};

template <class T>
void run(const GatedPointwiseCoarse& pass) {
  Coarse<T>(pass).run();
}

template <class T>
void run(const GatedPointwiseExit& pass) {
  Exit<T>(pass).run();
}

template <class Pass>
void run_as(const Pass& pass) {
  switch (pass.call.type) {
    case Type::float32:
      return run<float>(pass);
    case Type::float64:
      return run<double>(pass);
    case Type::float16:
      return run<Float16>(pass);
    case Type::bfloat16:
      return run<BFloat16>(pass);
  }
}

}  // namespace

void gated_pointwise_entry_cpu(const GatedPointwiseEntry& pass) {
  run_as(pass);
}

void gated_pointwise_coarse_cpu(const GatedPointwiseCoarse& pass) {
  run_as(pass);
}

void gated_pointwise_exit_cpu(const GatedPointwiseExit& pass) {
  run_as(pass);
}

}  // namespace lightsr
