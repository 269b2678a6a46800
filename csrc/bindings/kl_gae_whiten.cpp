#include "fairlead/kl_gae_whiten.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

KlGaeWhitenArguments arguments_of(std::uintptr_t logprobs, std::uintptr_t ref_logprobs,
                                  std::uintptr_t scores, std::uintptr_t values, std::uintptr_t mask,
                                  std::uintptr_t given_kl, std::uintptr_t token_scores,
                                  std::uintptr_t results, std::uintptr_t parts, std::int64_t rows,
                                  std::int64_t cols, double beta, double gamma, double lam,
                                  int estimator, double eps, int threads) {
    const auto* mask_bytes = pointer<const std::uint8_t>(mask);
    const std::int64_t count = rows * cols;
    float* rewards = pointer<float>(results);  // [4, rows, cols]
    float* kl = rewards + count;
    float* advantages = kl + count;
    float* returns = advantages + count;
    return {
        {pointer<const float>(logprobs), pointer<const float>(ref_logprobs),
         pointer<const float>(scores), mask_bytes, pointer<const float>(given_kl),
         pointer<const float>(token_scores), rewards, kl, rows, cols, static_cast<float>(beta),
         estimator, threads},
        // The product is rounded once, as torch rounds a Python scalar.
        {rewards, pointer<const float>(values), mask_bytes, advantages, returns, rows, cols,
         static_cast<float>(gamma), static_cast<float>(gamma * lam), threads},
        {advantages, mask_bytes, advantages, pointer<Moments>(parts), count, true, eps, threads}};
}

void kl_gae_whiten_cpu(std::uintptr_t logprobs, std::uintptr_t ref_logprobs, std::uintptr_t scores,
                       std::uintptr_t values, std::uintptr_t mask, std::uintptr_t given_kl,
                       std::uintptr_t token_scores, std::uintptr_t results, std::uintptr_t parts,
                       std::int64_t rows, std::int64_t cols, double beta, double gamma, double lam,
                       int estimator, double eps, int threads, const std::string& instruction_set) {
    const auto arguments =
        arguments_of(logprobs, ref_logprobs, scores, values, mask, given_kl, token_scores, results,
                     parts, rows, cols, beta, gamma, lam, estimator, eps, threads);
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.kl_gae_whiten(arguments);
}

#ifdef FAIRLEAD_WITH_CUDA
void kl_gae_whiten_cuda(std::uintptr_t logprobs, std::uintptr_t ref_logprobs, std::uintptr_t scores,
                        std::uintptr_t values, std::uintptr_t mask, std::uintptr_t given_kl,
                        std::uintptr_t token_scores, std::uintptr_t results, std::uintptr_t parts,
                        std::int64_t rows, std::int64_t cols, double beta, double gamma, double lam,
                        int estimator, double eps, int device, std::uintptr_t stream) {
    const auto arguments =
        arguments_of(logprobs, ref_logprobs, scores, values, mask, given_kl, token_scores, results,
                     parts, rows, cols, beta, gamma, lam, estimator, eps, 1);
    py::gil_scoped_release release;
    check_cuda(fairlead::kl_gae_whiten_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_kl_gae_whiten(py::module_& module) {
    module.def("kl_gae_whiten_cpu", &kl_gae_whiten_cpu, py::arg("logprobs"),
               py::arg("ref_logprobs"), py::arg("scores"), py::arg("values"), py::arg("mask"),
               py::arg("given_kl"), py::arg("token_scores"), py::arg("results"), py::arg("parts"),
               py::arg("rows"), py::arg("cols"), py::arg("beta"), py::arg("gamma"), py::arg("lam"),
               py::arg("estimator"), py::arg("eps"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("kl_gae_whiten_cuda", &kl_gae_whiten_cuda, py::arg("logprobs"),
               py::arg("ref_logprobs"), py::arg("scores"), py::arg("values"), py::arg("mask"),
               py::arg("given_kl"), py::arg("token_scores"), py::arg("results"), py::arg("parts"),
               py::arg("rows"), py::arg("cols"), py::arg("beta"), py::arg("gamma"), py::arg("lam"),
               py::arg("estimator"), py::arg("eps"), py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
