cairn_test(test_base SOURCES unit/test_base.c LABELS quick)
cairn_test(test_text SOURCES unit/test_text.c LABELS quick)
