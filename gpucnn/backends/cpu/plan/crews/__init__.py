"""Who works on the batches of one network: threads, or processes that share memory.

`choice.py` says when which; `crew.py` has the threads, `team.py` the processes, on a `board.py`.
"""
