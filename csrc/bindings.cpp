// The Python module `fairlead_kernels._native`: addresses in, nothing out. native.py is its only
// caller and has checked every tensor before it hands over an address.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "fairlead/gae.h"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

fairlead::GaeArguments gae_arguments(std::uintptr_t rewards, std::uintptr_t values,
                                     std::uintptr_t mask, std::uintptr_t advantages,
                                     std::uintptr_t returns, std::int64_t rows, std::int64_t cols,
                                     double gamma, double lam) {
    // The product is rounded once, as torch rounds a Python scalar.
    return {pointer<const float>(rewards),
            pointer<const float>(values),
            pointer<const std::uint8_t>(mask),
            pointer<float>(advantages),
            pointer<float>(returns),
            rows,
            cols,
            static_cast<float>(gamma),
            static_cast<float>(gamma * lam)};
}

void gae_cpu(std::uintptr_t rewards, std::uintptr_t values, std::uintptr_t mask,
             std::uintptr_t advantages, std::uintptr_t returns, std::int64_t rows,
             std::int64_t cols, double gamma, double lam, const std::string& instruction_set) {
    const auto arguments =
        gae_arguments(rewards, values, mask, advantages, returns, rows, cols, gamma, lam);
    py::gil_scoped_release release;
    if (instruction_set.empty()) {
        fairlead::gae_cpu(arguments);
    } else if (!fairlead::gae_cpu_with(arguments, instruction_set.c_str())) {
        throw std::invalid_argument("this processor or build has no '" + instruction_set + "'");
    }
}

#ifdef FAIRLEAD_WITH_CUDA
void gae_cuda(std::uintptr_t rewards, std::uintptr_t values, std::uintptr_t mask,
              std::uintptr_t advantages, std::uintptr_t returns, std::int64_t rows,
              std::int64_t cols, double gamma, double lam, int device, std::uintptr_t stream) {
    const auto arguments =
        gae_arguments(rewards, values, mask, advantages, returns, rows, cols, gamma, lam);
    py::gil_scoped_release release;
    const char* error = fairlead::gae_cuda(arguments, device, pointer<void>(stream));
    if (error != nullptr) throw std::runtime_error(std::string("CUDA: ") + error);
}
#endif

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.attr("compiler") = FAIRLEAD_COMPILER;
    module.attr("cuda_architectures") = FAIRLEAD_CUDA_ARCHITECTURES;
    module.def("cpu_instruction_set", &fairlead::cpu_instruction_set);
    module.def("gae_cpu", &gae_cpu, py::arg("rewards"), py::arg("values"), py::arg("mask"),
               py::arg("advantages"), py::arg("returns"), py::arg("rows"), py::arg("cols"),
               py::arg("gamma"), py::arg("lam"), py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("gae_cuda", &gae_cuda, py::arg("rewards"), py::arg("values"), py::arg("mask"),
               py::arg("advantages"), py::arg("returns"), py::arg("rows"), py::arg("cols"),
               py::arg("gamma"), py::arg("lam"), py::arg("device"), py::arg("stream"));
#endif
}
