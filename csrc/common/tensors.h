// From torch's tensors to plain pointers and sizes, through LibTorch's stable ABI. What a user may get wrong is checked
// in Python (lightsr_kernels/checks.py); the checks here keep a kernel from reading what is not there.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "types.h"

#ifdef LIGHTSR_CUDA
#include <torch/csrc/stable/accelerator.h>

// Declared by torch's own header only where USE_CUDA is defined.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace lightsr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Type::float32;
    case ScalarType::Double:
      return Type::float64;
    case ScalarType::Half:
      return Type::float16;
    case ScalarType::BFloat16:
      return Type::bfloat16;
    default:
      STD_TORCH_CHECK(false, "x must be float32, float64, float16 or bfloat16");
  }
}

// Whether the numbers of x [N, C, H, W] lie one after the other in the order n, h, w, c.
inline bool is_channels_last(const Tensor& x) {
  int64_t step = 1;
  for (int axis : {1, 3, 2, 0}) {
    if (x.size(axis) != 1 && x.stride(axis) != step) return false;
    step *= x.size(axis);
  }
  return true;
}

inline void check_like(const Tensor& each, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(
      each.scalar_type() == x.scalar_type() && each.get_device() == x.get_device() && each.is_cuda() == x.is_cuda(),
      name, " must have the dtype and device of x");
}

// A picture that lies in memory as x does.
inline const void* picture(const Tensor& each, const Tensor& x, bool channels_last, const char* name) {
  check_like(each, x, name);
  STD_TORCH_CHECK(each.dim() == 4 && each.numel() == x.numel() && each.size(1) == x.size(1) &&
                      (channels_last ? is_channels_last(each) : each.is_contiguous()),
                  name, " must have the shape and layout of x");
  return each.const_data_ptr();
}

inline const void* picture(const MaybeTensor& each, const Tensor& x, bool channels_last, const char* name) {
  return each ? picture(*each, x, channels_last, name) : nullptr;
}

// A filter or a bias: contiguous, `count` numbers.
inline const void* parameter(const Tensor& each, const Tensor& x, int64_t count, const char* name) {
  check_like(each, x, name);
  STD_TORCH_CHECK(each.numel() == count && each.is_contiguous(), name, " must be contiguous with ", count, " numbers");
  return each.const_data_ptr();
}

inline const void* parameter(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  return each ? parameter(*each, x, count, name) : nullptr;
}

// The layout of x: false for [N, C, H, W], true for [N, H, W, C]. Nothing else gets this far.
inline bool layout_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "x must have 4 dimensions [N, C, H, W]");
  if (x.is_contiguous()) return false;
  STD_TORCH_CHECK(is_channels_last(x), "x must be contiguous or channels_last");
  return true;
}

#ifdef LIGHTSR_CUDA
inline void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(x.get_device(), &stream) == 0, "torch has no CUDA stream");
  return stream;
}

inline void check_launch(int error, const char* name) {
  STD_TORCH_CHECK(error == 0, name, ": the kernel did not start, CUDA error ", error);
}
#endif

}  // namespace lightsr
