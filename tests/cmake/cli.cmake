# The built command as a script or a person uses it. `models` needs files that scripts/models fetches; without them it says SKIP.
if(TARGET cairn AND Python3_Interpreter_FOUND)
    add_test(NAME test_cli COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/e2e/test_cli.py $<TARGET_FILE:cairn>
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(test_cli PROPERTIES LABELS "quick;e2e" TIMEOUT 600 SKIP_RETURN_CODE 77)
    add_test(NAME test_cli_models COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/e2e/test_cli.py $<TARGET_FILE:cairn> --models
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(test_cli_models PROPERTIES LABELS "models;e2e" TIMEOUT 900 SKIP_RETURN_CODE 77)
endif()
