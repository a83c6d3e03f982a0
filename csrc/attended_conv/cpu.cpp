// The kernels of attended_conv for the CPU, in float32 and float64.
#include "cpu_filters.h"

namespace lightsr {

void attended_filters_cpu(const AttendedFilters& call) {
  call.type == Type::float64 ? attended::ScaledFilters<double>(call).run() : attended::ScaledFilters<float>(call).run();
}

}  // namespace lightsr
