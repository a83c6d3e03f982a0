// Where the sums of each gradient of gated_feed_forward begin.
#pragma once

#include <cstdint>

namespace lightsr::feed_forward {

struct Sums {
  int64_t in, depthwise, out, norm_weight, norm_bias, count;
  Sums(int64_t in_count, int64_t depthwise_count, int64_t out_count, int64_t weight_count, int64_t bias_count)
      : in(0),
        depthwise(in_count),
        out(depthwise + depthwise_count),
        norm_weight(out + out_count),
        norm_bias(norm_weight + weight_count),
        count(norm_bias + bias_count) {}
};

}  // namespace lightsr::feed_forward
