#include "fairlead/sample.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

SampleArguments sample_arguments(std::uintptr_t logits, std::uintptr_t u, std::uintptr_t tokens,
                                 std::uintptr_t logprobs, std::uintptr_t entropies,
                                 std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                 int type, double temperature, std::int64_t top_k, double top_p,
                                 int threads) {
    // The temperature is rounded once, as torch rounds a Python scalar.
    return {pointer<const void>(logits),
            static_cast<FloatType>(type),
            pointer<const double>(u),
            pointer<std::int64_t>(tokens),
            pointer<float>(logprobs),
            pointer<float>(entropies),
            rows,
            cols,
            stride,
            static_cast<float>(temperature),
            top_k,
            top_p,
            threads};
}

void sample_cpu(std::uintptr_t logits, std::uintptr_t u, std::uintptr_t tokens,
                std::uintptr_t logprobs, std::uintptr_t entropies, std::int64_t rows,
                std::int64_t cols, std::int64_t stride, int type, double temperature,
                std::int64_t top_k, double top_p, int threads, const std::string& instruction_set) {
    const auto arguments = sample_arguments(logits, u, tokens, logprobs, entropies, rows, cols,
                                            stride, type, temperature, top_k, top_p, threads);
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.sample(arguments);
}

#ifdef FAIRLEAD_WITH_CUDA
void sample_cuda(std::uintptr_t logits, std::uintptr_t u, std::uintptr_t tokens,
                 std::uintptr_t logprobs, std::uintptr_t entropies, std::int64_t rows,
                 std::int64_t cols, std::int64_t stride, int type, double temperature,
                 std::int64_t top_k, double top_p, int device, std::uintptr_t stream) {
    const auto arguments = sample_arguments(logits, u, tokens, logprobs, entropies, rows, cols,
                                            stride, type, temperature, top_k, top_p, 1);
    py::gil_scoped_release release;
    check_cuda(fairlead::sample_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_sample(py::module_& module) {
    module.def("sample_cpu", &sample_cpu, py::arg("logits"), py::arg("u"), py::arg("tokens"),
               py::arg("logprobs"), py::arg("entropies"), py::arg("rows"), py::arg("cols"),
               py::arg("stride"), py::arg("type"), py::arg("temperature"), py::arg("top_k"),
               py::arg("top_p"), py::arg("threads") = 1, py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("sample_cuda", &sample_cuda, py::arg("logits"), py::arg("u"), py::arg("tokens"),
               py::arg("logprobs"), py::arg("entropies"), py::arg("rows"), py::arg("cols"),
               py::arg("stride"), py::arg("type"), py::arg("temperature"), py::arg("top_k"),
               py::arg("top_p"), py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
