// What the files of bindings share: an operation a file, all put into one module by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "fairlead/cpu.h"

namespace fairlead::bindings {

namespace py = pybind11;

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// The kernels of an instruction set, the widest where the name is empty.
inline const CpuKernels& kernels(const std::string& instruction_set) {
    const CpuKernels* found = cpu_kernels(instruction_set.c_str());
    if (found == nullptr) {
        throw std::invalid_argument("this processor or build has no '" + instruction_set + "'");
    }
    return *found;
}

// A CUDA launch returns the text of its error, or nullptr.
inline void check_cuda(const char* error) {
    if (error != nullptr) throw std::runtime_error(std::string("CUDA: ") + error);
}

void bind_add_layer_norm(py::module_& module);
void bind_decode_attention(py::module_& module);
void bind_gae(py::module_& module);
void bind_gelu(py::module_& module);
void bind_kl_gae_whiten(py::module_& module);
void bind_kl_rewards(py::module_& module);
void bind_logprobs(py::module_& module);
void bind_memory(py::module_& module);
void bind_packed_linear(py::module_& module);
void bind_philox(py::module_& module);
void bind_ppo_loss(py::module_& module);
void bind_ragged_attention(py::module_& module);
void bind_sample(py::module_& module);
void bind_whiten(py::module_& module);

}  // namespace fairlead::bindings
