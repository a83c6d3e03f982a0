// What the outside may ask of the fibres.
#pragma once

#include <cstdint>
#include <string>

namespace lightsr::on_cpu {

// Decides the order of the blocks and, after every barrier, of the threads.
void set_seed(uint64_t seed);

// Launches are only noted down, a line each: blocks, threads, bytes of shared memory, kernel.
void only_note(std::string* notes);

}  // namespace lightsr::on_cpu
