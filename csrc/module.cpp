// The Python module that tells what was compiled. facts.h is written by the build (lightsr_kernels/build.py) and says
// which kernels this stands for; what the compiler says about itself is added here.
#include <pybind11/pybind11.h>

#include "facts.h"

namespace {

const char* compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

const char* simd() {
#if defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#elif defined(__SSE2__)
  return "SSE2";
#elif defined(__ARM_NEON)
  return "NEON";
#else
  return "portable";
#endif
}

pybind11::dict build_info() {
  pybind11::dict info = pybind11::module_::import("json").attr("loads")(facts);
  info["module"] = pybind11::dict(pybind11::arg("compiler") = compiler(), pybind11::arg("simd") = simd());
  return info;
}

}  // namespace

PYBIND11_MODULE(build_info, module) {
  module.def("build_info", &build_info, "What was compiled, with which compilers, flags and architectures, and when.");
}
