// The Python module `fairlead_kernels._native`: addresses in, nothing out. fairlead_kernels.native
// is its only caller and has checked every tensor before it hands over an address.
#include "bindings.h"

PYBIND11_MODULE(_native, module) {
    module.attr("compiler") = FAIRLEAD_COMPILER;
    module.attr("cuda_architectures") = FAIRLEAD_CUDA_ARCHITECTURES;
    module.def("cpu_instruction_set", &fairlead::cpu_instruction_set);
    fairlead::bindings::bind_add_layer_norm(module);
    fairlead::bindings::bind_decode_attention(module);
    fairlead::bindings::bind_gae(module);
    fairlead::bindings::bind_gelu(module);
    fairlead::bindings::bind_kl_gae_whiten(module);
    fairlead::bindings::bind_kl_rewards(module);
    fairlead::bindings::bind_logprobs(module);
    fairlead::bindings::bind_memory(module);
    fairlead::bindings::bind_packed_linear(module);
    fairlead::bindings::bind_philox(module);
    fairlead::bindings::bind_ppo_loss(module);
    fairlead::bindings::bind_ragged_attention(module);
    fairlead::bindings::bind_sample(module);
    fairlead::bindings::bind_whiten(module);
}
