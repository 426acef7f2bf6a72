"""SecantusDB with a short memory for retries, which makes it several times faster.

It keeps the answers of the last 10,000 retryable writes, and sorts them with each further write.
No test retries a write that far back. Arguments are those of `secantusd-py`.
"""
import sys

from secantus import transactions
from secantus.cli import main

assert hasattr(transactions, "_RETRYABLE_RECORD_MAX"), "this version of SecantusDB names it otherwise"
transactions._RETRYABLE_RECORD_MAX = 256

sys.exit(main())
