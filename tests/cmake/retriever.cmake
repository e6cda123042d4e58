cairn_test(test_retriever_fuse SOURCES unit/test_retriever_fuse.c LIBS cairn_retriever LABELS quick)
cairn_test(test_retriever_store SOURCES unit/test_retriever_store.c LIBS cairn_retriever LABELS quick)
cairn_test(test_retriever_models SOURCES unit/test_retriever_models.c LIBS cairn_retriever LABELS models)
