# The scripts that fetch and convert model files. The system's python3 first: it is the one that has numpy by package.
find_program(CAIRN_SYSTEM_PYTHON3 NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
find_program(CAIRN_SYSTEM_PYTHON3 NAMES python3 REQUIRED)
foreach(name test_convert_encoder test_models_script)
    add_test(NAME ${name} COMMAND ${CAIRN_SYSTEM_PYTHON3} ${CMAKE_CURRENT_SOURCE_DIR}/unit/${name}.py
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES LABELS quick TIMEOUT 120 SKIP_RETURN_CODE 77)
endforeach()
