#include "fairlead/ppo_loss.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void ppo_policy_loss_cpu(std::uintptr_t logprobs, std::uintptr_t old_logprobs,
                         std::uintptr_t advantages, std::uintptr_t mask, std::uintptr_t loss,
                         std::uintptr_t sums, std::uintptr_t gradient, std::uintptr_t parts,
                         std::int64_t count, double clip, int threads,
                         const std::string& instruction_set) {
    const PolicyLossArguments arguments = {
        pointer<const float>(logprobs), pointer<const float>(old_logprobs),
        pointer<const float>(advantages), pointer<const std::uint8_t>(mask), pointer<float>(loss),
        pointer<float>(sums), pointer<float>(gradient), pointer<double>(parts), count,
        // Rounded once, as torch rounds a Python scalar.
        static_cast<float>(1.0 - clip), static_cast<float>(1.0 + clip), threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.ppo_policy_loss(arguments);
}

void ppo_value_loss_cpu(std::uintptr_t values, std::uintptr_t old_values, std::uintptr_t returns,
                        std::uintptr_t mask, std::uintptr_t loss, std::uintptr_t sums,
                        std::uintptr_t gradient, std::uintptr_t parts, std::int64_t count,
                        double clip, bool clipped, int threads,
                        const std::string& instruction_set) {
    const ValueLossArguments arguments = {pointer<const float>(values),
                                          pointer<const float>(old_values),
                                          pointer<const float>(returns),
                                          pointer<const std::uint8_t>(mask),
                                          pointer<float>(loss),
                                          pointer<float>(sums),
                                          pointer<float>(gradient),
                                          pointer<double>(parts),
                                          count,
                                          static_cast<float>(clip),
                                          clipped,
                                          threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.ppo_value_loss(arguments);
}

}  // namespace

void bind_ppo_loss(py::module_& module) {
    module.def("ppo_policy_loss_cpu", &ppo_policy_loss_cpu, py::arg("logprobs"),
               py::arg("old_logprobs"), py::arg("advantages"), py::arg("mask"), py::arg("loss"),
               py::arg("sums"), py::arg("gradient"), py::arg("parts"), py::arg("count"),
               py::arg("clip"), py::arg("threads") = 1, py::arg("instruction_set") = "");
    module.def("ppo_value_loss_cpu", &ppo_value_loss_cpu, py::arg("values"), py::arg("old_values"),
               py::arg("returns"), py::arg("mask"), py::arg("loss"), py::arg("sums"),
               py::arg("gradient"), py::arg("parts"), py::arg("count"), py::arg("clip"),
               py::arg("clipped"), py::arg("threads") = 1, py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings
