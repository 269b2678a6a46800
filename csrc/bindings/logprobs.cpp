#include "fairlead/logprobs.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

// (type, rows, cols, stride, first, vocabulary, temperature), as native/token_logprobs.py makes it.
LogitsBlock logits_block(const py::tuple& block, int threads) {
    return {static_cast<FloatType>(block[0].cast<int>()),
            block[1].cast<std::int64_t>(),
            block[2].cast<std::int64_t>(),
            block[3].cast<std::int64_t>(),
            block[4].cast<std::int64_t>(),
            block[5].cast<std::int64_t>(),
            block[6].cast<double>(),
            threads};
}

void check_labels(const std::int64_t* labels, const LogitsBlock& block) {
    const std::int64_t row = bad_label(labels, block.rows, block.vocabulary);
    if (row >= 0) {
        throw py::index_error("label " + std::to_string(labels[row]) + " of row " +
                              std::to_string(row) + " is not in [0, " +
                              std::to_string(block.vocabulary) + ")");
    }
}

void logprobs_forward_cpu(std::uintptr_t logits, std::uintptr_t labels, std::uintptr_t state,
                          std::uintptr_t logprobs, std::uintptr_t entropy, std::uintptr_t stats,
                          const py::tuple& block, int threads, const std::string& instruction_set) {
    const LogprobsForward arguments = {logits_block(block, threads),
                                       pointer<const void>(logits),
                                       pointer<const std::int64_t>(labels),
                                       pointer<double>(state),
                                       pointer<float>(logprobs),
                                       pointer<float>(entropy),
                                       pointer<float>(stats)};
    const CpuKernels& chosen = kernels(instruction_set);
    check_labels(arguments.labels, arguments.block);
    py::gil_scoped_release release;
    chosen.logprobs_forward(arguments);
}

void logprobs_backward_cpu(std::uintptr_t logits, std::uintptr_t labels, std::uintptr_t stats,
                           std::uintptr_t grad_logprobs, std::uintptr_t grad_entropy,
                           std::uintptr_t grad_logits, std::int64_t grad_stride,
                           const py::tuple& block, int threads,
                           const std::string& instruction_set) {
    const LogprobsBackward arguments = {
        logits_block(block, threads),        pointer<const void>(logits),
        pointer<const std::int64_t>(labels), pointer<const float>(stats),
        pointer<const float>(grad_logprobs), pointer<const float>(grad_entropy),
        pointer<void>(grad_logits),          grad_stride};
    const CpuKernels& chosen = kernels(instruction_set);
    check_labels(arguments.labels, arguments.block);
    py::gil_scoped_release release;
    chosen.logprobs_backward(arguments);
}

}  // namespace

void bind_logprobs(py::module_& module) {
    module.def("logprobs_forward_cpu", &logprobs_forward_cpu, py::arg("logits"), py::arg("labels"),
               py::arg("state"), py::arg("logprobs"), py::arg("entropy"), py::arg("stats"),
               py::arg("block"), py::arg("threads") = 1, py::arg("instruction_set") = "");
    module.def("logprobs_backward_cpu", &logprobs_backward_cpu, py::arg("logits"),
               py::arg("labels"), py::arg("stats"), py::arg("grad_logprobs"),
               py::arg("grad_entropy"), py::arg("grad_logits"), py::arg("grad_stride"),
               py::arg("block"), py::arg("threads") = 1, py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings
