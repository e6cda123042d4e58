# The knowledge base of data/, its access rules and its judged questions hold together.
if(Python3_Interpreter_FOUND)
    add_test(NAME data_check COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/data/check.py)
    set_tests_properties(data_check PROPERTIES LABELS quick TIMEOUT 60)
endif()
