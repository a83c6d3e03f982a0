// Small planes of [N, C, H, W] on the CPU, turned over. Lanes that are columns have nothing to do beyond the end of a
// short row, and each plane is work of its own; so as many channels as a vector has lanes are copied at a time, as
// pictures [N, H, W, C] in the cache, and the kernels for that layout do the rest. Numbers of 16 bits are widened on
// the way in and rounded on the way out.
#pragma once

#include <memory>

#include "../common/by_type.h"
#include "../common/parallel.h"
#include "../common/pixels.h"
#include "../common/round.h"
#include "../common/shuffle.h"
#include "arguments.h"

namespace lightsr {

template <class S>
class Turned {
 public:
  // Whether a call is quicker this way; by its sizes alone, since sums are not added in the same order.
  template <class Call>
  static bool pays(const Call& call) {
    return !call.channels_last && call.w < 2 * size && 2 * call.c >= size && call.h * call.w <= most_pixels;
  }

  static void forward(const DepthwiseConv& call) {
    const Parts parts(call, 2 + (call.gate != nullptr) + (call.residual != nullptr), call.n);
    const int64_t taps = int64_t(call.kh) * call.kw;
    const int64_t missing = parts.groups * size - call.c;
    const Widened<E> weight(static_cast<const S*>(call.weight), call.c * taps, missing * taps);
    const Widened<E> bias(static_cast<const S*>(call.bias), call.c, missing);
    run_tasks(parts.groups * parts.chunks, [&](int64_t task) {
      const Part part = parts.at(task);
      E* to = memory(parts);
      DepthwiseConv turned = call;
      turned.type = type, turned.channels_last = true, turned.n = part.pictures, turned.c = size;
      turned.weight = weight.data() + part.channel * taps, turned.bias = bias.data() + part.channel;
      for (const void** each : {&turned.x, &turned.gate, &turned.residual})
        if (*each) *each = turn(part, static_cast<const S*>(*each), to);
      turned.out = to;
      depthwise_conv_forward_cpu(turned);
      turn_back(part, to, static_cast<S*>(call.out));
    });
  }

  static void backward_weight(const DepthwiseConvWeight& call) {
    const Parts parts(call, 2, most_chunks);
    const int64_t taps = int64_t(call.kh) * call.kw, all = parts.groups * size;
    const std::unique_ptr<E[]> found(new E[parts.chunks * all * (taps + 1)]);
    const auto sums = [&](int64_t chunk) { return found.get() + chunk * all * (taps + 1); };
    run_tasks(parts.groups * parts.chunks, [&](int64_t task) {
      const Part part = parts.at(task);
      E *to = memory(parts), *own = sums(task / parts.groups);
      DepthwiseConvWeight turned = call;
      turned.type = type, turned.channels_last = true, turned.n = part.pictures, turned.c = size;
      for (const void** each : {&turned.x, &turned.grad}) *each = turn(part, static_cast<const S*>(*each), to);
      turned.grad_weight = own + part.channel * taps;
      turned.grad_bias = call.grad_bias ? own + all * taps + part.channel : nullptr;
      depthwise_conv_backward_weight_cpu(turned);
    });
    const auto add_up = [&](int64_t at, void* to, int64_t begin, int64_t end) {
      for (int64_t i = begin; to && i < end; ++i) {
        double total = 0;
        for (int64_t chunk = 0; chunk < parts.chunks; ++chunk) total += sums(chunk)[at + i];
        Vec<E>::fill(E(total)).store(static_cast<S*>(to) + i, 1);
      }
    };
    run_tasks(parts.groups, [&](int64_t group) {
      const int64_t begin = group * size, end = std::min(begin + size, call.c);
      add_up(0, call.grad_weight, begin * taps, end * taps);
      add_up(all * taps, call.grad_bias, begin, end);
    });
  }

 private:
  using E = Wide<S>;
  static constexpr Type type = std::is_same_v<E, double> ? Type::float64 : Type::float32;
  static constexpr int size = Vec<E>::size;
  static constexpr int64_t most_chunks = 64;                             // which have sums of their own
  static constexpr int64_t most_pixels = 1024, near_bytes = 256 * 1024;  // of some of the pictures' copies

  // Some of the pictures, and a vector's channels, of which `channels` exist.
  struct Part {
    int64_t all, pixels, picture, pictures, channel, channels;
  };
  struct Parts {
    int64_t n, c, pixels, copies, groups, each, chunks;
    template <class Call>
    Parts(const Call& call, int64_t copies, int64_t most)
        : n(call.n), c(call.c), pixels(call.h * call.w), copies(copies), groups(ceil_div(c, size)) {
      each = std::clamp<int64_t>(near_bytes / (copies * pixels * size * int64_t(sizeof(E))), 1, n);
      each = std::max(each, ceil_div(n, most));
      chunks = ceil_div(n, each);
    }
    Part at(int64_t task) const {
      const int64_t channel = task % groups * size, picture = task / groups * each;
      return {c, pixels, picture, std::min(each, n - picture), channel, std::min<int64_t>(size, c - channel)};
    }
  };

  // A thread's own. Scratch memory is one piece for each type, and the kernels in between take that of E.
  static E* memory(const Parts& parts) {
    struct Number {
      E value;
    };
    return reinterpret_cast<E*>(scratch<Number>((parts.copies * parts.each * parts.pixels + size) * size));
  }

  // Copies a part to `to`, which then stands behind it, and gives back where it is.
  static const E* turn(const Part& part, const S* from, E*& to) {
    const E* const begin = to;
    every_block(part, [&](int64_t place, auto... some) {
      const S* at = from + place;
      Vec<E> lines[size];
      if (part.channels == size) {
#pragma GCC unroll 16
        for (int c = 0; c < size; ++c) lines[c] = Vec<E>::load(at + c * part.pixels, some...);
      } else {
        for (int c = 0; c < size; ++c)
          lines[c] = c < part.channels ? Vec<E>::load(at + c * part.pixels, some...) : Vec<E>::fill(0);
      }
      transpose(lines);
      const int many = pixels_of(some...);
#pragma GCC unroll 16
      for (int p = 0; p < many; ++p, to += size) lines[p].store(to);
    });
    return begin;
  }

  static void turn_back(const Part& part, const E* from, S* to) {
    every_block(part, [&](int64_t place, auto... some) {
      S* at = to + place;
      Vec<E> lines[size];
#pragma GCC unroll 16
      for (int p = 0; p < size; ++p) lines[p] = Vec<E>::load(from + p * size);  // of what no pixel is, nothing is kept
      from += pixels_of(some...) * size;
      transpose(lines);
      if (part.channels == size) {
#pragma GCC unroll 16
        for (int c = 0; c < size; ++c) lines[c].store(at + c * part.pixels, some...);
      } else {
        for (int c = 0; c < part.channels; ++c) lines[c].store(at + c * part.pixels, some...);
      }
    });
  }

  // Calls each(place) for the first channel of each vector of pixels, and each(place, some) for what is left of a
  // plane.
  template <class Each>
  static void every_block(const Part& part, const Each& each) {
    for (int64_t n = 0; n < part.pictures; ++n) {
      const int64_t plane = ((part.picture + n) * part.all + part.channel) * part.pixels;
      int64_t pixel = 0;
      for (; pixel + size <= part.pixels; pixel += size) each(plane + pixel);
      if (pixel < part.pixels) each(plane + pixel, int(part.pixels - pixel));
    }
  }

  static int pixels_of() { return size; }
  static int pixels_of(int some) { return some; }
};

}  // namespace lightsr
