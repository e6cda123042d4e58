# End-to-end tests run the built command. Debian's own python3 has the msgpack and pynvim that scripts/setup installs.
find_program(CAIRN_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
if(CAIRN_PYTHON AND TARGET cairn)
    function(cairn_e2e name script)
        cmake_parse_arguments(T "" "TIMEOUT" "ARGS;LABELS" ${ARGN})
        add_test(NAME ${name} COMMAND ${CAIRN_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${T_ARGS})
        set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT}
                                                ENVIRONMENT "CAIRN_BIN=$<TARGET_FILE:cairn>")
    endfunction()
    cairn_e2e(e2e_python_client e2e/test_python_client.py LABELS quick TIMEOUT 120)
    cairn_e2e(e2e_foreign_peers e2e/test_foreign_peers.py LABELS quick TIMEOUT 120)
    cairn_e2e(crash_kill_cycles crash/kill_cycles.py ARGS 20 LABELS slow TIMEOUT 300)
endif()
