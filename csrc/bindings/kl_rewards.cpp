#include "fairlead/kl_rewards.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

KlRewardsArguments arguments_of(std::uintptr_t logprobs, std::uintptr_t ref_logprobs,
                                std::uintptr_t scores, std::uintptr_t mask, std::uintptr_t given_kl,
                                std::uintptr_t token_scores, std::uintptr_t rewards,
                                std::uintptr_t kl, std::int64_t rows, std::int64_t cols,
                                double beta, int estimator, int threads) {
    return {pointer<const float>(logprobs),
            pointer<const float>(ref_logprobs),
            pointer<const float>(scores),
            pointer<const std::uint8_t>(mask),
            pointer<const float>(given_kl),
            pointer<const float>(token_scores),
            pointer<float>(rewards),
            pointer<float>(kl),
            rows,
            cols,
            static_cast<float>(beta),
            estimator,
            threads};
}

void kl_rewards_cpu(std::uintptr_t logprobs, std::uintptr_t ref_logprobs, std::uintptr_t scores,
                    std::uintptr_t mask, std::uintptr_t given_kl, std::uintptr_t token_scores,
                    std::uintptr_t rewards, std::uintptr_t kl, std::int64_t rows, std::int64_t cols,
                    double beta, int estimator, int threads, const std::string& instruction_set) {
    const auto arguments =
        arguments_of(logprobs, ref_logprobs, scores, mask, given_kl, token_scores, rewards, kl,
                     rows, cols, beta, estimator, threads);
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.kl_rewards(arguments);
}

#ifdef FAIRLEAD_WITH_CUDA
void kl_rewards_cuda(std::uintptr_t logprobs, std::uintptr_t ref_logprobs, std::uintptr_t scores,
                     std::uintptr_t mask, std::uintptr_t given_kl, std::uintptr_t token_scores,
                     std::uintptr_t rewards, std::uintptr_t kl, std::int64_t rows,
                     std::int64_t cols, double beta, int estimator, int device,
                     std::uintptr_t stream) {
    const auto arguments = arguments_of(logprobs, ref_logprobs, scores, mask, given_kl,
                                        token_scores, rewards, kl, rows, cols, beta, estimator, 1);
    py::gil_scoped_release release;
    check_cuda(fairlead::kl_rewards_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_kl_rewards(py::module_& module) {
    module.def("kl_rewards_cpu", &kl_rewards_cpu, py::arg("logprobs"), py::arg("ref_logprobs"),
               py::arg("scores"), py::arg("mask"), py::arg("given_kl"), py::arg("token_scores"),
               py::arg("rewards"), py::arg("kl"), py::arg("rows"), py::arg("cols"), py::arg("beta"),
               py::arg("estimator"), py::arg("threads") = 1, py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("kl_rewards_cuda", &kl_rewards_cuda, py::arg("logprobs"), py::arg("ref_logprobs"),
               py::arg("scores"), py::arg("mask"), py::arg("given_kl"), py::arg("token_scores"),
               py::arg("rewards"), py::arg("kl"), py::arg("rows"), py::arg("cols"), py::arg("beta"),
               py::arg("estimator"), py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
