cairn_test(test_grounding_proofs SOURCES unit/test_grounding_proofs.c LIBS cairn_generator LABELS quick)
cairn_test(test_grounding_bounds SOURCES unit/test_grounding_bounds.c LIBS cairn_generator LABELS quick)
cairn_test(test_generator_typed SOURCES unit/test_generator_typed.c LIBS cairn_generator LABELS quick)
cairn_test(test_generator_sampler SOURCES unit/test_generator_sampler.c LIBS cairn_generator LABELS quick)
cairn_test(test_generator_stream SOURCES unit/test_generator_stream.c LIBS cairn_generator LABELS quick)
cairn_test(test_generator_evidence SOURCES unit/test_generator_evidence.c LIBS cairn_generator LABELS quick)
cairn_test(test_schedule SOURCES unit/test_schedule.c LIBS cairn_generator LABELS quick)
cairn_test(test_generator_prompt SOURCES unit/test_generator_prompt.c LIBS cairn_generator LABELS models)
cairn_test(test_generator_answer SOURCES unit/test_generator_answer.c LIBS cairn_generator LABELS models)
foreach(name test_grounding_proofs test_grounding_bounds test_generator_typed test_generator_sampler test_generator_stream
             test_generator_evidence test_generator_prompt test_generator_answer test_schedule)
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/generator) # private headers: what no public call reaches alone
endforeach()
cairn_fuzz(fuzz_grounding SOURCES fuzz/fuzz_grounding.c LIBS cairn_generator)
