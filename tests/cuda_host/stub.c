/* stub.c - modules that are not what they seem: STUB_ABI is the version that the table claims; without it
 * there is no entry at all. */
#include "device.h"

#ifdef STUB_ABI
const struct device_api *cairn_device_open(uint32_t abi, char *why, size_t why_len);
const struct device_api *cairn_device_open(uint32_t abi, char *why, size_t why_len)
{
    static const struct device_api api = {.abi = STUB_ABI, .backend = "stub", .device = "none"};
    (void)abi;
    if (why_len)
        why[0] = 0;
    return &api;
}
#else
int stub_is_not_a_module(void);
int stub_is_not_a_module(void) { return 0; }
#endif
