// distillation_fusion forward on the CPU: one pass over pixels, in blocks.
//
// A block of all parts is put together in a buffer in the cache, times maps and scale where there are any; then comes
// the product, and gain, residual and activation on its way to the result.
#pragma once

#include "../common/block_tasks.h"
#include "../common/pixel_product.h"
#include "../common/simd_math.h"
#include "arguments.h"

namespace lightsr::fusion {

template <class T>
struct Parameters {
  using S = Wide<T>;
  const DistillationFusion& call;
  bool planes;
  Vec<S> gain, residual_gain;
  PerChannel<S> scale;  // of all pictures, one behind the other

  explicit Parameters(const DistillationFusion& call)
      : call(call),
        planes(!call.channels_last),
        gain(one_of(call.gain)),
        residual_gain(one_of(call.residual_gain)),
        scale(planes, static_cast<const T*>(call.scale), call.n * call.in) {}

  static Vec<S> one_of(const void* number) {
    return Vec<S>::fill(number ? wide_number<S>(*static_cast<const T*>(number)) : S(1));
  }
  // The map of a part, at the block's first pixel.
  const T* map(const Block& block, int part) const {
    const T* map = static_cast<const T*>(call.map[part]);
    return map ? map + block.picture * call.pixels + block.pixel : nullptr;
  }
  // Of a map the numbers for a vector.
  template <class... Part>
  static Vec<S> factor(bool planes, const T* map, int64_t row, int64_t column, Part... part) {
    return planes ? Vec<S>::load(map + column, part...) : Vec<S>::fill(wide_number<S>(map[row]));
  }

  // Calls each(part, first channel, its numbers) for the parts of a block.
  template <class Each>
  void every_part(const Block& block, const Each& each) const {
    int64_t channel = 0;
    for (int k = 0; k < call.parts; channel += call.channels[k], ++k) each(k, channel, block.of<T>(call.part[k]));
  }

  // The parts of a block in one buffer, times their maps, and where `scaled` times the scale of the picture.
  void gather(const Block& block, const Operand<T>& joined, bool scaled) const {
    every_part(block, [&](int k, int64_t first, const Rows<const T>& from) {
      const auto to = block.from_channel(joined.numbers, first);
      const Stream<T> stream(from, planes);
      const T* map = this->map(block, k);
      const auto factors =
          scaled ? scale.from_channel(block.picture * call.in + first) : typename PerChannel<S>::View{};
      block.every<S>(call.channels[k], [=, planes = planes](int64_t row, int64_t column, auto... part) {
        Vec<S> value = stream.template load<S>(row, column, part...);
        if (map) value = value * factor(planes, map, row, column, part...);
        if (factors) value = value * factors.at(row, column);
        value.store(to.at(row, column), part...);
      });
    });
  }
};

template <class T>
class Forward {
  using S = Wide<T>;

 public:
  explicit Forward(const DistillationFusion& call)
      : call_(call),
        all_(call),
        bias_(all_.planes, static_cast<const T*>(call.bias), call.out_channels),
        weight_(all_.planes, static_cast<const T*>(call.weight), call.out_channels, call.in, call.in, 1) {}

  void run() const {
    const Blocks blocks(all_.planes, call_.n, call_.pixels, call_.in + call_.out_channels);
    Arena size(nullptr);
    Operand<T>(size, all_.planes, call_.in, blocks.block);
    const int64_t bytes = size.used(nullptr);
    run_tasks(blocks.count(), [&](int64_t task) {
      Arena arena(scratch<char>(bytes));
      Ahead ahead;
      blocks.after(task, [&](const Block& next) {
        for (int k = 0; k < call_.parts; ++k) next.ask_for<T>(call_.part[k], call_.channels[k], ahead);
        next.ask_for<T>(call_.residual, call_.out_channels, ahead);
      });
      block(blocks.at(task), Operand<T>(arena, all_.planes, call_.in, blocks.block), ahead);
    });
  }

 private:
  void block(const Block& block, const Operand<T>& joined, Ahead& ahead) const {
    const Rows<T> out = block.of<T>(call_.out, call_.out_channels, call_.pixels);
    const Rows<const T> residual = block.of<T>(call_.residual);
    all_.gather(block, joined, call_.scale != nullptr);
    const auto bias = bias_.from_channel(0);
    const Vec<S> gain = all_.gain, residual_gain = all_.residual_gain;
    const bool past =
        past_cache<T>(call_.n * call_.pixels * call_.out_channels, all_.planes ? call_.pixels : call_.out_channels);
    const bool gained = call_.gain != nullptr, residual_gained = call_.residual_gain != nullptr;
    const auto multiply = [&](const auto& act) {
      weight_.multiply(
          block, joined, call_.out_channels, call_.in,
          [=](Vec<S> value, int64_t row, int64_t column, auto... part) {
            if (bias) value = value + bias.at(row, column);
            if (gained) value = value * gain;
            if (residual) {
              Vec<S> other = Vec<S>::load(residual.at(row, column), part...);
              if (residual_gained) other = other * residual_gain;
              value = value + other;
            }
            put(act(value), out.at(row, column), past, part...);
          },
          &ahead);
    };
    if (call_.activation == Activation::none) {
      multiply([](Vec<S> value) { return value; });
    } else {
      const Vec<S> slope = Vec<S>::fill(static_cast<S>(call_.negative_slope));
      multiply([slope, activation = call_.activation](Vec<S> value) { return activate(value, activation, slope); });
    }
  }

  const DistillationFusion& call_;
  const Parameters<T> all_;
  const PerChannel<S> bias_;
  const Matrix<T> weight_;
};

}  // namespace lightsr::fusion
