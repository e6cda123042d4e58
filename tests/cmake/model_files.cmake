# model files, tokenizers, templates, registry
foreach(name model_file tokenizer tokenizer_plain chat registry)
    if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../unit/test_${name}.c)
        cairn_test(test_${name} SOURCES ${CMAKE_CURRENT_LIST_DIR}/../unit/test_${name}.c LIBS cairn_model jansson LABELS quick)
    endif()
endforeach()
foreach(test tokenizer tokenizer_plain)
    target_include_directories(test_${test} PRIVATE ${CMAKE_SOURCE_DIR}/model) # tokenizer.h is private to the room
endforeach()
target_link_libraries(test_tokenizer_plain PRIVATE PkgConfig::UTF8PROC)
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../golden/tokenizer/test_tokenizer_golden.c)
    cairn_test(test_tokenizer_golden SOURCES ${CMAKE_CURRENT_LIST_DIR}/../golden/tokenizer/test_tokenizer_golden.c
               LIBS cairn_model jansson LABELS models)
endif()
foreach(name gguf safetensors)
    if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../fuzz/fuzz_${name}.c)
        cairn_fuzz(fuzz_${name} SOURCES ${CMAKE_CURRENT_LIST_DIR}/../fuzz/fuzz_${name}.c LIBS cairn_model)
    endif()
endforeach()
