# The kernels of model/cuda compiled for the host: what they compute, races and accesses out of bounds are tested without a GPU.
if(NOT EXISTS ${CMAKE_SOURCE_DIR}/model/cuda/module.cu)
    return()
endif()
enable_language(CXX)
add_library(cairn_cuda_host MODULE ${CMAKE_SOURCE_DIR}/tests/cuda_host/module.cpp ${CMAKE_SOURCE_DIR}/tests/cuda_host/cuda_host.cpp)
target_compile_features(cairn_cuda_host PRIVATE cxx_std_17)
target_compile_definitions(cairn_cuda_host PRIVATE CAIRN_CUDA_HOST)
target_compile_options(cairn_cuda_host PRIVATE -O2 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Wno-enum-compare
                                               -Wno-extra -fvisibility=hidden)
target_include_directories(cairn_cuda_host PRIVATE ${CMAKE_SOURCE_DIR}/tests/cuda_host ${CMAKE_SOURCE_DIR}/model/cuda)
set_target_properties(cairn_cuda_host PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
set(cuda_host_module ${CMAKE_BINARY_DIR}/tests/cairn_cuda_host.so)

cairn_test(test_cuda SOURCES ${CMAKE_SOURCE_DIR}/tests/parity/test_cuda.c LIBS cairn_generator cairn_model ARGS ${cuda_host_module}
           LABELS quick TIMEOUT 900)
target_include_directories(test_cuda PRIVATE ${CMAKE_SOURCE_DIR}/model)
add_dependencies(test_cuda cairn_cuda_host)

foreach(stub no_entry other_abi)
    add_library(cairn_cuda_${stub} MODULE ${CMAKE_SOURCE_DIR}/tests/cuda_host/stub.c)
    target_include_directories(cairn_cuda_${stub} PRIVATE ${CMAKE_SOURCE_DIR}/model)
    set_target_properties(cairn_cuda_${stub} PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endforeach()
target_compile_definitions(cairn_cuda_other_abi PRIVATE STUB_ABI=1)
cairn_test(test_device SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/test_device.c LIBS cairn_model
           ARGS ${cuda_host_module} ${CMAKE_BINARY_DIR}/tests/cairn_cuda_no_entry.so ${CMAKE_BINARY_DIR}/tests/cairn_cuda_other_abi.so
           LABELS quick TIMEOUT 600)
target_include_directories(test_device PRIVATE ${CMAKE_SOURCE_DIR}/model ${CMAKE_SOURCE_DIR}/tests/unit)
add_dependencies(test_device cairn_cuda_host cairn_cuda_no_entry cairn_cuda_other_abi)
add_test(NAME test_device_absent COMMAND test_device absent WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
set_tests_properties(test_device_absent PROPERTIES LABELS quick TIMEOUT 300)

# Where nvcc is, the real module is compiled with the tests; where a GPU is too, they run on it, else they say SKIP.
if(CAIRN_NVCC AND NOT CAIRN_SANITIZE)
    cairn_cuda_module(cairn_cuda_tested ${CMAKE_BINARY_DIR}/tests/cairn_cuda_tested.so ${CMAKE_SOURCE_DIR}/tests/cuda/door.cu)
    add_test(NAME test_cuda_on_device COMMAND test_cuda ${CMAKE_BINARY_DIR}/tests/cairn_cuda_tested.so
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(test_cuda_on_device PROPERTIES LABELS cuda TIMEOUT 900 SKIP_RETURN_CODE 77)
endif()
# The decoder's own tests, on the emulated device as well.
if(TARGET test_decoder_tiny)
    add_dependencies(test_decoder_tiny cairn_cuda_host)
    set_tests_properties(test_decoder_tiny PROPERTIES ENVIRONMENT CAIRN_CUDA_MODULE=${cuda_host_module})
endif()
