#include "fairlead/gae.h"

#include <cstring>

#include "bindings.h"

namespace fairlead::bindings {
namespace {

GaeArguments gae_arguments(std::uintptr_t rewards, std::uintptr_t values, std::uintptr_t mask,
                           std::uintptr_t advantages, std::uintptr_t returns, std::int64_t rows,
                           std::int64_t cols, double gamma, double lam, int threads) {
    // The product is rounded once, as torch rounds a Python scalar.
    return {pointer<const float>(rewards),
            pointer<const float>(values),
            pointer<const std::uint8_t>(mask),
            pointer<float>(advantages),
            pointer<float>(returns),
            rows,
            cols,
            static_cast<float>(gamma),
            static_cast<float>(gamma * lam),
            threads};
}

void gae_cpu(std::uintptr_t rewards, std::uintptr_t values, std::uintptr_t mask,
             std::uintptr_t advantages, std::uintptr_t returns, std::int64_t rows,
             std::int64_t cols, double gamma, double lam, int threads,
             const std::string& instruction_set) {
    const auto arguments =
        gae_arguments(rewards, values, mask, advantages, returns, rows, cols, gamma, lam, threads);
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.gae(arguments);
}

// Whether each row's ones come first, of a mask in the CPU's memory.
bool is_prefix_mask(std::uintptr_t mask, std::int64_t rows, std::int64_t cols) {
    const auto size = static_cast<std::size_t>(cols);
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto* begin = pointer<const std::uint8_t>(mask) + row * cols;
        const auto* zero = static_cast<const std::uint8_t*>(std::memchr(begin, 0, size));
        if (zero == nullptr) continue;
        const auto rest = size - static_cast<std::size_t>(zero - begin);
        if (std::memchr(zero, 1, rest) != nullptr) return false;
    }
    return true;
}

#ifdef FAIRLEAD_WITH_CUDA
void gae_cuda(std::uintptr_t rewards, std::uintptr_t values, std::uintptr_t mask,
              std::uintptr_t advantages, std::uintptr_t returns, std::int64_t rows,
              std::int64_t cols, double gamma, double lam, int device, std::uintptr_t stream) {
    const auto arguments =
        gae_arguments(rewards, values, mask, advantages, returns, rows, cols, gamma, lam, 1);
    py::gil_scoped_release release;
    check_cuda(fairlead::gae_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_gae(py::module_& module) {
    module.def("is_prefix_mask", &is_prefix_mask, py::arg("mask"), py::arg("rows"),
               py::arg("cols"));
    module.def("gae_cpu", &gae_cpu, py::arg("rewards"), py::arg("values"), py::arg("mask"),
               py::arg("advantages"), py::arg("returns"), py::arg("rows"), py::arg("cols"),
               py::arg("gamma"), py::arg("lam"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("gae_cuda", &gae_cuda, py::arg("rewards"), py::arg("values"), py::arg("mask"),
               py::arg("advantages"), py::arg("returns"), py::arg("rows"), py::arg("cols"),
               py::arg("gamma"), py::arg("lam"), py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
