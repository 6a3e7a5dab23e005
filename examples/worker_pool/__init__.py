"""A text indexer: a pool of workers reads the files of a folder, and survives whatever is killed meanwhile.

``python -m examples.worker_pool ~/notes --query "two words"``; without a folder it takes Python's standard library.
"""
